"""PSNR: per image as the field quotes it, and over groups of images as Open-MAGVIT2's published figures are.

The reference takes one mean squared error over a whole batch, so its figure depends on the batch size (4 by default, 8
before): 0.6 to 0.9 dB below the mean of per-image PSNRs. Both follow from the per-image errors kept here.
"""

import torch
from torch import Tensor

from open_magvit2.common.images import psnr
from open_magvit2.evaluation import pixels
from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.protocols import EvaluationBatch


class PSNR(PerImageMetric):
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), of 8-bit pixels.

    - psnr_image: mean of the images' PSNR, rounded pixels. The one to quote.
    - psnr_image_trunc: the same on truncated pixels (of original and reconstruction).
    - psnr_batch4, psnr_batch8: the paper's: truncated pixels, one MSE per group of 4 or 8 consecutive images of the
      sorted dataset, mean of the groups' PSNR; a smaller last group has the same weight.
    - psnr_global: PSNR of the mean of all images' MSE, rounded pixels.

    An identical image has infinite PSNR, as in scikit-image. Images are meant to be of one size.
    """

    columns = ("psnr_image", "psnr_image_trunc", "mse_rounded", "mse_truncated")

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        rounded = mean_squared_error(*pixels.rounded(batch.image, batch.output))
        truncated = mean_squared_error(*pixels.truncated(batch.image, batch.output))
        return dict(zip(self.columns, (decibels(rounded), decibels(truncated), rounded, truncated), strict=True))

    def summarize(self, rows: dict[str, Tensor]) -> dict[str, float]:
        figures = {name: rows[name].mean() for name in ("psnr_image", "psnr_image_trunc")}
        for size in (4, 8):
            groups = [decibels(group.mean()) for group in rows["mse_truncated"].split(size)]
            figures[f"psnr_batch{size}"] = torch.stack(groups).mean()
        figures["psnr_global"] = decibels(rows["mse_rounded"].mean())
        return {name: figure.item() for name, figure in figures.items()}


def mean_squared_error(first: Tensor, second: Tensor) -> Tensor:
    """Per-image mean squared difference, float64 [B], of uint8 images [B, 3, H, W]; exact, a sum of integers."""
    (sums,) = pixels.image_by_image(_sum_of_squares, first, second)
    return sums / first[0].numel()


def _sum_of_squares(first: Tensor, second: Tensor) -> tuple[Tensor]:
    # Squares are whole numbers below 2^16, so float32 holds them, and float64 their sum, without rounding.
    squares = first.to(torch.float32).sub_(second).square_()
    return (squares.flatten(1).sum(dim=1, dtype=torch.float64),)


def decibels(error: Tensor) -> Tensor:
    """PSNR of a mean squared error of 8-bit pixels; infinite where it is 0."""
    return psnr(error, 255.0)
