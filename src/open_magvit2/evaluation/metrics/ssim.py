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
    """Mean over images of the structural similarity: `ssim_image` on rounded, `ssim_paper` on truncated pixels."""

    columns = ("ssim_image", "ssim_paper")

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
    x, y = first.flatten(0, 1), second.flatten(0, 1)
    # On a CPU plane by plane: the buffers then stay in its cache.
    chunk = 1 if x.device.type == "cpu" else len(x)
    size = chunk * height * width
    whole = [torch.empty(size, dtype=torch.int32, device=x.device) for _ in range(5)]
    floats = [torch.empty(size, dtype=torch.float32, device=x.device) for _ in range(4)]
    planes = [_similarity(a, b, whole, floats) for a, b in zip(x.split(chunk), y.split(chunk), strict=True)]
    return torch.cat(planes).unflatten(0, first.shape[:2]).mean(dim=1)


def _similarity(first: Tensor, second: Tensor, whole: list[Tensor], floats: list[Tensor]) -> Tensor:
    """SSIM float64 [P] of grey images uint8 [P, H, W], in five int32 and four float32 buffers [P H W].

    The images are one row of numbers, in which the neighbour below is W further: every step is then one pass over
    contiguous memory. The windows that leave an image on the right or below are of no use, and are cut off at the end.
    """
    sums, products, squares, x, y = whole
    x.copy_(first.flatten()), y.copy_(second.flatten())
    torch.add(x, y, alpha=2**16, out=sums)  # both in one: a sum over a window is below 2^14
    torch.mul(x, y, out=products)
    torch.mul(x, x, out=squares).addcmul_(y, y)
    for values in (sums, products, squares):
        _add_up_windows(values, first.shape[-1], x, y)
    torch.bitwise_and(sums, 2**16 - 1, out=x)
    torch.bitwise_right_shift(sums, 16, out=y)
    product_of_sums = torch.mul(x, y, out=sums)
    squares_of_sums = x.mul_(x).addcmul_(y, y)
    # Covariance and variances with the opposite sign, which the quotient cancels. It leaves a factor of 4.
    covariance = torch.sub(product_of_sums, products, alpha=NUM_PIXELS, out=products)
    variances = torch.sub(squares_of_sums, squares, alpha=NUM_PIXELS, out=squares)
    luminance, structure, brightness, contrast = floats
    luminance.copy_(product_of_sums).add_(_C1 / 2)
    structure.copy_(covariance).sub_(_C2 / 2)
    brightness.copy_(squares_of_sums).add_(_C1)
    contrast.copy_(variances).sub_(_C2)
    luminance.mul_(structure).div_(brightness.mul_(contrast))
    inside = luminance.view(first.shape)[:, : 1 - WINDOW, : 1 - WINDOW]
    return inside.sum(dim=(1, 2), dtype=torch.float64).mul_(4).div_(inside[0].numel())


def _add_up_windows(values: Tensor, width: int, spare: Tensor, pairs: Tensor) -> None:
    """Replace int32 [P H W] by the sums over the 7 x 7 windows that begin there; `spare` and `pairs` are overwritten.

    7 = 4 + 2 + 1: four additions a direction instead of six, and none of a running sum's rounding.
    """
    length = len(values)
    for source, target, step in ((values, spare, width), (spare, values, 1)):
        rest = length - (WINDOW - 1) * step
        torch.add(source[: length - step], source[step:length], out=pairs[: length - step])
        fours = length - 3 * step
        torch.add(pairs[:fours], pairs[2 * step : length - step], out=target[:fours])
        target[:rest].add_(pairs[4 * step : 4 * step + rest]).add_(source[6 * step : length])
        length = rest
