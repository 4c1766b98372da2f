"""Mean absolute and mean squared error of float images in [-1, 1], the scale of the training loss."""

import torch
from torch import Tensor

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.one_by_one import one_by_one
from open_magvit2.evaluation.per_image import PerImageMetric


class L1(PerImageMetric):
    """`l1` = mean |x - x'| and `mse` = mean (x - x')^2 per image, x' clamped to [-1, 1] and not quantised."""

    columns = ("l1", "mse")

    def measure(self, image: Tensor, reconstruction: Tensor, indices: Tensor) -> dict[str, Tensor]:
        l1, mse = one_by_one(_errors, image, reconstruction)
        return {"l1": l1, "mse": mse}


def _errors(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    difference = (image.to(torch.float32) - reconstruction.to(torch.float32).clamp(-1.0, 1.0)).flatten(1)
    number = difference.shape[1]
    l1 = difference.abs_().sum(dim=1, dtype=torch.float64) / number
    return l1, difference.square_().sum(dim=1, dtype=torch.float64) / number


def create(context: MetricContext) -> L1:
    return L1()
