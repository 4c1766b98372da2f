"""Mean absolute and mean squared error of float images in [-1, 1], the scale of the training loss."""

import torch
from torch import Tensor

from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.evaluation.pixels import image_by_image
from open_magvit2.protocols import EvaluationBatch


class L1(PerImageMetric):
    """`l1` = mean |x - x'| and `mse` = mean (x - x')^2 of each image, x' clamped to [-1, 1] and not quantised."""

    columns = ("l1", "mse")

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        return dict(zip(self.columns, image_by_image(_errors, batch.image, batch.output), strict=True))


def _errors(image: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    difference = (image.float() - output.float().clamp(-1.0, 1.0)).flatten(1)
    number = difference.shape[1]
    l1 = difference.abs_().sum(dim=1, dtype=torch.float64) / number
    return l1, difference.square_().sum(dim=1, dtype=torch.float64) / number
