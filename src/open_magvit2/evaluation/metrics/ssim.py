"""SSIM with scikit-image's conventions, which are the paper's, computed exactly on the device.

Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), equation 13, with a
uniform 7 x 7 window, the sample covariance, K1 = 0.01, K2 = 0.03, windows inside the image only, mean over channels.
"""

import torch
from torch import Tensor

from open_magvit2.evaluation import pixels
from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.per_image import PerImageMetric

WINDOW = 7
NUM_PIXELS = WINDOW * WINDOW


class SSIM(PerImageMetric):
    """Mean over images of the structural similarity: `ssim_image` on rounded, `ssim_paper` on truncated pixels."""

    columns = ("ssim_image", "ssim_paper")

    def measure(self, image: Tensor, reconstruction: Tensor, indices: Tensor) -> dict[str, Tensor]:
        return {
            "ssim_image": structural_similarity(*pixels.rounded(image, reconstruction)),
            "ssim_paper": structural_similarity(*pixels.truncated(image, reconstruction)),
        }


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of each pair of images, as `skimage.metrics.structural_similarity` with its defaults gives it.

    With S the sums over a window of n = 49 pixels, mean = S_x / n and the sample covariance is
    (n S_xy - S_x S_y) / (n (n-1)). The sums are whole numbers below 2^24, exact in float32; the rest is float64.

    Args:
        first, second: uint8 [B, C, H, W].

    Returns:
        float64 [B].

    Raises:
        ValueError: if the images are smaller than the window.
    """
    if min(first.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW}, got {tuple(first.shape[-2:])}")
    x, y = first.flatten(0, 1), second.flatten(0, 1)
    # On a CPU plane by plane: all intermediate results then stay in its cache, which is three times as fast.
    chunk = 1 if x.device.type == "cpu" else len(x)
    planes = torch.cat([_of_planes(a, b) for a, b in zip(x.split(chunk), y.split(chunk), strict=True)])
    return planes.unflatten(0, first.shape[:2]).mean(dim=1)


def _of_planes(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of grey images uint8 [P, H, W], float64 [P]."""
    x, y = first.to(torch.float32), second.to(torch.float32)
    products, squares = _window_sums(x * y).to(torch.float64), _window_sums(x.square() + y.square()).to(torch.float64)
    sum_x, sum_y = _window_sums(x).to(torch.float64), _window_sums(y).to(torch.float64)
    product_of_sums = sum_x * sum_y
    squares_of_sums = sum_x.square_().add_(sum_y.square_())
    covariance = products.mul_(NUM_PIXELS).sub_(product_of_sums)
    variances = squares.mul_(NUM_PIXELS).sub_(squares_of_sums)
    # The constants of the paper, (K L)^2, times what the sums above have not been divided by.
    c1 = (0.01 * 255) ** 2 * NUM_PIXELS**2
    c2 = (0.03 * 255) ** 2 * NUM_PIXELS * (NUM_PIXELS - 1)
    numerator = product_of_sums.mul_(2).add_(c1).mul_(covariance.mul_(2).add_(c2))
    denominator = squares_of_sums.add_(c1).mul_(variances.add_(c2))
    return numerator.div_(denominator).flatten(1).mean(dim=1)


def _window_sums(values: Tensor) -> Tensor:
    """Sums over all 7 x 7 windows inside the image: [P, H, W] -> [P, H-6, W-6]."""
    for dim in (-2, -1):
        length = values.shape[dim] - WINDOW + 1
        # 7 = 4 + 2 + 1: four additions a direction instead of six, and no rounding as a running sum would have.
        two = values.narrow(dim, 0, length + 5) + values.narrow(dim, 1, length + 5)
        four = two.narrow(dim, 0, length + 3) + two.narrow(dim, 2, length + 3)
        values = four.narrow(dim, 0, length) + two.narrow(dim, 4, length) + values.narrow(dim, 6, length)
    return values


def create(context: MetricContext) -> SSIM:
    return SSIM()
