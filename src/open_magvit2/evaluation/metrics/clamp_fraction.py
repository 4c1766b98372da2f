"""How much of the decoder's output lies outside [-1, 1] before it is clamped: a diagnostic of wrong ranges."""

import torch
from torch import Tensor

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.per_image import PerImageMetric


class ClampFraction(PerImageMetric):
    """`clamp_fraction`: share of values with |x'| > 1, in [0, 1]; a few percent are usual, 20 % a sign of trouble."""

    columns = ("clamp_fraction",)

    def measure(self, image: Tensor, reconstruction: Tensor, indices: Tensor) -> dict[str, Tensor]:
        outside = reconstruction.abs() > 1.0
        return {"clamp_fraction": outside.flatten(1).mean(dim=1, dtype=torch.float64)}


def create(context: MetricContext) -> ClampFraction:
    return ClampFraction()
