"""Both sides of a comparison written to JPEG files and read back, as OmniTokenizer's evaluation compares them.

It saves originals and reconstructions under the originals' names, which end in .JPEG: Pillow then compresses both,
which makes them a little more alike. Values are truncated to 8 bits, which lowers 63 of the originals' 256 grey levels.
"""

import io

import torch
from PIL import Image
from torch import Tensor

from open_magvit2.common.images import from_image, to_float, to_image, to_uint8


def as_files(original: Tensor, output: Tensor, quality: int) -> tuple[Tensor, Tensor]:
    """Originals and reconstructions as they look after a JPEG file, on the device they came from.

    Args:
        original: float [B, 3, H, W] in [-1, 1], of 8-bit pixels.
        output: float [B, 3, H, W]; values outside [-1, 1] are clamped.
        quality: of Pillow's encoder; chroma is stored at half the size.

    Returns:
        float32 [B, 3, H, W] in [-1, 1] twice, again of 8-bit pixels.
    """
    # In [-0.5, 0.5] and the order of float32 operations there: another order truncates other levels.
    centred = to_uint8(original).to(torch.float32) / 255 - 0.5
    return _round_trip(centred, quality), _round_trip(output.to(torch.float32).clamp(-1, 1) * 0.5, quality)


def truncated(centred: Tensor) -> Tensor:
    """Float image in [-0.5, 0.5] -> uint8 by truncation."""
    return ((centred + 0.5) * 255).to(torch.int16).to(torch.uint8)


def _round_trip(centred: Tensor, quality: int) -> Tensor:
    saved = torch.stack([_saved(pixels, quality) for pixels in truncated(centred).cpu()])
    return to_float(saved).to(centred.device)


def _saved(pixels: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    to_image(pixels).save(file, format="JPEG", quality=quality)
    with Image.open(file) as image:
        return from_image(image.convert("RGB"))
