"""How much of the decoder's output lies outside [-1, 1] before it is clamped: a diagnostic of wrong ranges."""

import torch
from torch import Tensor

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.per_image import PerImageMetric


class ClampFraction(PerImageMetric):
    """`clamp_fraction`: share of values with |x'| > 1, in [0, 1]; a few percent are usual, 20 % a sign of trouble."""

    columns = ("clamp_fraction",)

    def measure(self, image: Tensor, reconstruction: Tensor, indices: Tensor) -> dict[str, Tensor]:
        outside = (reconstruction.abs() > 1.0).flatten(1)
        return {"clamp_fraction": outside.count_nonzero(dim=1).to(torch.float64) / outside.shape[1]}


def create(context: MetricContext) -> ClampFraction:
    return ClampFraction()
