"""The one file that knows value ranges: uint8 in [0, 255] <-> float in [-1, 1]; grids; from and to Pillow's images."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels in [0, 255], any shape -> float32 in [-1, 1]: p / 127.5 - 1, correctly rounded for all 256 values.

    Raises:
        ValueError: if the pixels are not uint8 (a float image would silently be scaled twice).
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"to_float expects uint8 pixels in [0, 255], got {pixels.dtype}: is it a float image already?")
    return pixels.to(torch.float32).mul_(2.0).sub_(255.0).div_(255.0)  # one rounding, in the division


def to_uint8(image: Tensor) -> Tensor:
    """Float image in [-1, 1], any shape -> uint8 pixels, clamped and rounded to nearest.

    Rounding makes `to_uint8(to_float(pixels)) == pixels` for all 256 values; truncation loses 1 for 95 of them.
    """
    if not image.is_floating_point():
        raise ValueError(f"to_uint8 expects a float image in [-1, 1], got {image.dtype}")
    return _whole(image.detach().to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0))


def to_uint8_truncated(image: Tensor) -> Tensor:
    """Float image in [-1, 1] -> uint8 by truncation, as the reference evaluation does before PSNR and SSIM.

    Kept apart because it darkens the image: only the `paper` figures use it.
    """
    if not image.is_floating_point():
        raise ValueError(f"to_uint8_truncated expects a float image in [-1, 1], got {image.dtype}")
    return _whole(image.detach().to(torch.float32).clamp(-1.0, 1.0).add_(1.0).mul_(0.5).mul_(255.0))


def rescaled(image: Tensor, source: Sequence[float], target: Sequence[float]) -> Tensor:
    """An image of any shape mapped linearly from one value range (lowest, highest) to another; itself where equal."""
    if tuple(source) == tuple(target):
        return image
    scale = (target[1] - target[0]) / (source[1] - source[0])
    return (image - source[0]) * scale + target[0]


def psnr(mean_squared_error: Tensor, value_range: float) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(range^2 / MSE); infinite where the error is 0.

    Args:
        mean_squared_error: any shape, of values whose largest difference is `value_range`.
        value_range: 255 for 8-bit pixels, 2 for images in [-1, 1].
    """
    return 10.0 * torch.log10(value_range**2 / mean_squared_error)


def _whole(values: Tensor) -> Tensor:
    """Floats in [0, 255] -> uint8, towards zero; by way of int16, which a CPU converts to four times as fast."""
    return values.to(torch.int16).to(torch.uint8)


def grid(rows: list[Tensor], padding: int = 2) -> Tensor:
    """Lay out rows of images, e.g. originals above reconstructions.

    Args:
        rows: uint8 tensors [N, 3, H, W], all of one shape; row r of the grid shows rows[r].
        padding: white pixels between and around the images.

    Returns:
        uint8 [3, R * (H + padding) + padding, N * (W + padding) + padding].
    """
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or any(row.dtype != torch.uint8 for row in rows):
        raise ValueError(f"grid expects uint8 rows [N, 3, H, W] of one shape, got {sorted(shapes)}")
    number, channels, height, width = rows[0].shape
    canvas = torch.full(
        (channels, len(rows) * (height + padding) + padding, number * (width + padding) + padding),
        255,
        dtype=torch.uint8,
    )
    for r, row in enumerate(rows):
        top = padding + r * (height + padding)
        for n, image in enumerate(row.cpu()):
            left = padding + n * (width + padding)
            canvas[:, top : top + height, left : left + width] = image
    return canvas


def to_image(pixels: Tensor) -> Image.Image:
    """uint8 [3, H, W] -> an RGB image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def from_image(image: Image.Image) -> Tensor:
    """An RGB image -> uint8 [3, H, W], contiguous."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
