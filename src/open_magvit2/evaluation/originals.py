"""How each paper makes the originals it compares with: another resizer is another task, so it belongs to a protocol.

Against the reference's originals at 256 pixels the others lie 35 to 41 dB away (docs/evaluation.md). Transforms are as
`data.transforms` has them: (RGB image, random generator) -> uint8 [3, H, W]; none of these uses the generator.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def bilinear(image: Image.Image, size: int) -> Image.Image:
    """Open-MAGVIT2's: Pillow's antialiased bilinear filter, torchvision's rule for the longer side."""
    return image.resize(_longer_truncated(image, size), Image.Resampling.BILINEAR)


def bicubic(image: Image.Image, size: int) -> Image.Image:
    """1d-tokenizer's (TiTok): Pillow's antialiased bicubic filter."""
    return image.resize(_longer_truncated(image, size), Image.Resampling.BICUBIC)


def adm(image: Image.Image, size: int) -> Image.Image:
    """guided-diffusion's, which LlamaGen uses: halved by averaging while it is twice too large, then bicubic."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image.resize(_longer_rounded(image, size), Image.Resampling.BICUBIC)


def no_antialias(image: Image.Image, size: int) -> Image.Image:
    """taming-transformers' and IBQ's: OpenCV's bilinear interpolation, which skips pixels when it shrinks.

    Computed in float32 and rounded; OpenCV's fixed-point arithmetic may differ by one level.
    """
    width, height = _longer_rounded(image, size)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(torch.float32)
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    return Image.fromarray(resized[0].round().to(torch.uint8).permute(1, 2, 0).numpy())


RESIZERS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "bilinear": bilinear,
    "bicubic": bicubic,
    "adm": adm,
    "no_antialias": no_antialias,
}


def make_transform(resize: str, size: int | None) -> Callable[[Image.Image, object], Tensor]:
    """The transform of a protocol: resize the shorter side, crop the centre; or the image as it is.

    Args:
        resize: a key of `RESIZERS`, or "none" for the image's own size.
        size: side of the square crop; None with "none".

    Returns:
        a function of an RGB image and an ignored random generator, which can be sent to loader processes.
    """
    if resize == "none":
        if size is not None:
            raise ValueError(f"resize none keeps the images' own sizes, but an image size of {size} is given")
        return _own_size
    if resize not in RESIZERS:
        raise ValueError(f"no resize is called {resize!r}; available: none, {', '.join(RESIZERS)}")
    if size is None:
        raise ValueError(f"resize {resize} needs an image size: give --image-size explicitly, there is no default")
    return partial(_resize_and_crop, resize=resize, size=size)


def _resize_and_crop(image: Image.Image, generator: object, resize: str, size: int) -> Tensor:
    if min(image.size) != size or resize == "adm":
        image = RESIZERS[resize](image, size)
    # torchvision rounds the half pixel of an odd margin, the others cut it off.
    margins = (image.width - size) / 2.0, (image.height - size) / 2.0
    left, top = (round(m) if resize in ("bilinear", "bicubic") else int(m) for m in margins)
    return _pixels(image.crop((left, top, left + size, top + size)))


def _own_size(image: Image.Image, generator: object) -> Tensor:
    return _pixels(image)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _longer_truncated(image: Image.Image, size: int) -> tuple[int, int]:
    """New (width, height), the longer side as torchvision has it."""
    width, height = image.size
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def _longer_rounded(image: Image.Image, size: int) -> tuple[int, int]:
    """New (width, height), the longer side rounded."""
    scale = size / min(image.size)
    return round(image.width * scale), round(image.height * scale)
