"""How much of the decoder's output lies outside [-1, 1] before it is clamped: a diagnostic of wrong ranges."""

import torch
from torch import Tensor

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.one_by_one import one_by_one
from open_magvit2.evaluation.per_image import PerImageMetric


class ClampFraction(PerImageMetric):
    """`clamp_fraction`: share of values with |x'| > 1, in [0, 1]; a few percent are usual, 20 % a sign of trouble."""

    columns = ("clamp_fraction",)

    def measure(self, image: Tensor, reconstruction: Tensor, indices: Tensor) -> dict[str, Tensor]:
        (number,) = one_by_one(lambda x: ((x.abs() > 1.0).flatten(1).count_nonzero(dim=1),), reconstruction)
        return {"clamp_fraction": number.to(torch.float64) / reconstruction[0].numel()}


def create(context: MetricContext) -> ClampFraction:
    return ClampFraction()
