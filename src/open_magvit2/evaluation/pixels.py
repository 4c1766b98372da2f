"""The two ways to 8-bit pixels before PSNR and SSIM: rounded, as a saved image is, and truncated, as the paper did."""

import torch
from torch import Tensor

from open_magvit2.common.images import to_uint8, to_uint8_truncated


def rounded(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Float images [B, 3, H, W] in [-1, 1] -> uint8, rounded to nearest; the originals come back exactly."""
    return to_uint8(image), to_uint8(reconstruction)


def truncated(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Float images [B, 3, H, W] in [-1, 1] -> uint8 by truncation, original and reconstruction alike.

    The reference (Open-MAGVIT2's evaluation.py) makes its float images in float64, `x / 127.5 - 1`, and rounds them to
    float32; truncation then loses 1 for 95 of the 256 levels. Dividing and subtracting in float32 loses it for 63 only,
    so the originals are taken back to pixels and made again: (2 x - 255) / 255 rounds once and gives the same values.
    """
    exact = to_uint8(image).to(torch.float32).mul_(2.0).sub_(255.0).div_(255.0)
    return to_uint8_truncated(exact), to_uint8_truncated(reconstruction)
