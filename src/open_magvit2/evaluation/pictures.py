"""Pictures of reconstructions: any size through a tokenizer, side by side, and grids for a README."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from open_magvit2.common import images
from open_magvit2.protocols import Tokenizer


@torch.inference_mode()
def reconstruct_pixels(tokenizer: Tokenizer, pixels: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Reconstruction of one image of any size, uint8 [3, H, W] -> uint8 [3, H, W].

    Sides that are no multiples of the downsampling factor are padded at the bottom and right by repeating the border,
    and cropped again.
    """
    height, width = pixels.shape[1:]
    step = tokenizer.downsampling
    image = images.to_float(pixels.to(device))[None]
    image = F.pad(image, (0, -width % step, 0, -height % step), mode="replicate")
    reconstruction, _ = tokenizer.reconstruct(image)
    return images.to_uint8(reconstruction[0, :, :height, :width]).cpu()


def side_by_side(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Original left, reconstruction right: uint8 [3, H, W] twice -> [3, H + 4, 2 W + 6]."""
    return images.grid([torch.stack([original, reconstruction])])


def originals_above_reconstructions(
    originals: Sequence[Tensor], reconstructions: Sequence[Tensor], columns: int = 8, enlarge: int = 1
) -> Tensor:
    """A grid in pairs of rows: originals, and under each its reconstruction.

    Args:
        originals, reconstructions: uint8 [3, H, W], all of one size.
        columns: images in a row.
        enlarge: whole factor by which pixels are repeated, for small images.
    """
    columns = min(columns, len(originals))
    rows = []
    for start in range(0, len(originals), columns):
        for images_of_row in (originals, reconstructions):
            row = torch.stack(list(images_of_row[start : start + columns]))
            row = row.repeat_interleave(enlarge, dim=2).repeat_interleave(enlarge, dim=3)
            missing = columns - len(row)
            rows.append(torch.cat([row, row.new_full((missing, *row.shape[1:]), 255)]))  # the last row may be short
    return images.grid(rows, padding=max(2, enlarge))


def save_png(path: str | Path, pixels: Tensor) -> None:
    """Write uint8 [3, H, W] as a PNG; the folder is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
