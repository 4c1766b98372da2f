"""The two ways to 8-bit pixels before PSNR and SSIM: rounded, as a saved image is, and truncated, as the paper did."""

import torch
from torch import Tensor

from open_magvit2.common.images import to_uint8, to_uint8_truncated


def rounded(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Float images [B, 3, H, W] in [-1, 1] -> uint8, rounded to nearest; the originals come back exactly."""
    return to_uint8(image), to_uint8(reconstruction)


def truncated(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Float images [B, 3, H, W] in [-1, 1] -> uint8 by truncation, original and reconstruction alike.

    The reference (Open-MAGVIT2's evaluation.py) makes its float images in float64, `x / 127.5 - 1`, before it casts
    them to float32; truncation then loses 1 for 95 of the 256 levels. The division in float32 loses it for 63 only,
    so the originals are taken back to pixels and made again the reference's way.
    """
    pixels = to_uint8(image)
    return to_uint8_truncated((pixels.to(torch.float64) / 127.5 - 1.0).to(torch.float32)), to_uint8_truncated(
        reconstruction
    )
