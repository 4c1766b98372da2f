"""The two ways to 8-bit pixels before PSNR and SSIM: rounded, as a saved image is, and truncated, as the paper did."""

from torch import Tensor

from open_magvit2.common.images import to_uint8, to_uint8_truncated


def rounded(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Float images [B, 3, H, W] in [-1, 1] -> uint8, rounded to nearest; the originals come back exactly."""
    return to_uint8(image), to_uint8(reconstruction)


def truncated(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Float images [B, 3, H, W] in [-1, 1] -> uint8 by truncation, original and reconstruction alike.

    The reference (Open-MAGVIT2's evaluation.py) does so; it loses 1 for 95 of the 256 levels of the originals.
    """
    return to_uint8_truncated(image), to_uint8_truncated(reconstruction)
