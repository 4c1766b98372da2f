"""SSIM with scikit-image's conventions, which are the paper's, from exact window sums, on the device.

Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), equation 13, with a
uniform 7 x 7 window, the sample covariance, K1 = 0.01, K2 = 0.03, windows inside the image only, mean over channels.
"""

import torch
from torch import Tensor

from open_magvit2.evaluation import pixels
from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.protocols import EvaluationBatch

WINDOW = 7
NUM_PIXELS = WINDOW * WINDOW
# The constants of the paper, (K L)^2, times what the sums below have not been divided by.
_C1 = (0.01 * 255) ** 2 * NUM_PIXELS**2
_C2 = (0.03 * 255) ** 2 * NUM_PIXELS * (NUM_PIXELS - 1)


class SSIM(PerImageMetric):
    """Structural similarity: `ssim_image`, the mean over images, on rounded pixels; `ssim_paper` on truncated pixels.

    `ssim_paper` is the reference's: the mean over batches of 4 consecutive images of the sorted dataset of each batch's
    mean, in which a smaller last batch has the same weight.
    """

    columns = ("ssim_image", "ssim_paper")

    def summarize(self, rows: dict[str, Tensor]) -> dict[str, float]:
        batches = torch.stack([batch.mean() for batch in rows["ssim_paper"].split(4)])
        return {"ssim_image": rows["ssim_image"].mean().item(), "ssim_paper": batches.mean().item()}

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        return {
            "ssim_image": structural_similarity(*pixels.rounded(batch.image, batch.output)),
            "ssim_paper": structural_similarity(*pixels.truncated(batch.image, batch.output)),
        }


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of each pair of images, as `skimage.metrics.structural_similarity` with its defaults gives it.

    With S the sums over a window of n = 49 pixels, mean = S_x / n and the sample covariance is
    (n S_xy - S_x S_y) / (n (n-1)). All of these sums and products are whole numbers below 2^31, so they are exact; only
    the last quotient is rounded, in float32, to about 2e-7.

    Args:
        first, second: uint8 [B, C, H, W].

    Returns:
        float64 [B].

    Raises:
        ValueError: if the images are smaller than the window.
    """
    height, width = first.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW}, got {tuple(first.shape[-2:])}")
    x, y = first.reshape(-1, height * width), second.reshape(-1, height * width)
    # On a CPU plane by plane: the buffers then stay in its cache.
    chunk = 1 if x.device.type == "cpu" else len(x)
    similarity = _Similarity(chunk, height, width, x.device)
    planes = torch.cat([similarity(a, b) for a, b in zip(x.split(chunk), y.split(chunk), strict=True)])
    return planes.unflatten(0, first.shape[:2]).mean(dim=1)


class _Similarity:
    """SSIM of P grey images of one size, in buffers that are allocated once.

    The images are one row of P H W numbers, in which the neighbour below is W further: every step is then one pass over
    contiguous memory. The windows that leave an image on the right or below are of no use, and are cut off at the end.
    """

    def __init__(self, planes: int, height: int, width: int, device: torch.device) -> None:
        size = planes * height * width
        whole = [torch.empty(size, dtype=torch.int32, device=device) for _ in range(5)]
        self._sums, self._products, self._squares, self._x, self._y = whole
        self._add_up = [_WindowSums(values, width, self._x, self._y) for values in whole[:3]]
        self._floats = [torch.empty(size, dtype=torch.float32, device=device) for _ in range(4)]
        self._inside = self._floats[0].view(planes, height, width)[:, : height - WINDOW + 1, : width - WINDOW + 1]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """SSIM float64 [P] of images uint8 [P, H W]."""
        x, y = self._x.copy_(first.flatten()), self._y.copy_(second.flatten())
        torch.add(x, y, alpha=2**16, out=self._sums)  # both in one: a sum over a window is below 2^14
        torch.mul(x, y, out=self._products)
        torch.mul(x, x, out=self._squares).addcmul_(y, y)
        for add_up in self._add_up:  # these overwrite x and y
            add_up()
        torch.bitwise_and(self._sums, 2**16 - 1, out=x)
        torch.bitwise_right_shift(self._sums, 16, out=y)
        product_of_sums = torch.mul(x, y, out=self._sums)
        squares_of_sums = x.mul_(x).addcmul_(y, y)
        # Covariance and variances with the opposite sign, which the quotient cancels. It leaves a factor of 4.
        covariance = torch.sub(product_of_sums, self._products, alpha=NUM_PIXELS, out=self._products)
        variances = torch.sub(squares_of_sums, self._squares, alpha=NUM_PIXELS, out=self._squares)
        luminance, structure, brightness, contrast = self._floats
        luminance.copy_(product_of_sums).add_(_C1 / 2)
        structure.copy_(covariance).sub_(_C2 / 2)
        brightness.copy_(squares_of_sums).add_(_C1)
        contrast.copy_(variances).sub_(_C2)
        luminance.mul_(structure).div_(brightness.mul_(contrast))
        return self._inside.sum(dim=(1, 2), dtype=torch.float64).mul_(4).div_(self._inside[0].numel())


class _WindowSums:
    """Replaces numbers by the sums over the 7 x 7 windows that begin at them, as far as there are any.

    7 = 4 + 2 + 1: four additions a direction instead of six, and none of a running sum's rounding.

    Args:
        values: int32 [P H W], replaced.
        width: W.
        spare, pairs: of the same size, overwritten.
    """

    def __init__(self, values: Tensor, width: int, spare: Tensor, pairs: Tensor) -> None:
        self._passes = []
        length = len(values)
        for source, target, step in ((values, spare, width), (spare, values, 1)):
            rest = length - (WINDOW - 1) * step
            self._passes.append(
                (
                    (source[: length - step], source[step:length], pairs[: length - step]),
                    (pairs[: length - 3 * step], pairs[2 * step : length - step], target[: length - 3 * step]),
                    (target[:rest], pairs[4 * step : 4 * step + rest], source[6 * step : length]),
                )
            )
            length = rest

    def __call__(self) -> None:
        for (one, next_one, two), (first_two, next_two, four), (seven, fifth_two, seventh) in self._passes:
            torch.add(one, next_one, out=two)
            torch.add(first_two, next_two, out=four)
            seven.add_(fifth_two).add_(seventh)
