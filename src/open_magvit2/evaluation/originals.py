"""The resizers of the papers: figures from originals made by another resizer do not compare, so a protocol names one.

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

from open_magvit2.common.images import from_image, to_image
from open_magvit2.data.transforms import Picture, resized_size
from open_magvit2.evaluation.image_size import ImageSize, from_plain

Resizer = Callable[[Image.Image, ImageSize], Image.Image]  # until the image covers (height, width)


def _pillow(kernel: Image.Resampling) -> Resizer:
    """Pillow's antialiased filters, with torchvision's rule for the longer side."""
    return lambda image, size: image.resize(resized_size(*image.size, size), kernel)


def _squashed(kernel: Image.Resampling) -> Resizer:
    """To the size itself: the aspect ratio is not kept, and nothing is left to crop."""
    return lambda image, size: image.resize((size[1], size[0]), kernel)


def _adm(image: Image.Image, size: ImageSize) -> Image.Image:
    """Halved by averaging while it is twice too large, then bicubic."""
    while image.height >= 2 * size[0] and image.width >= 2 * size[1]:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image.resize(_longer_rounded(image, size), Image.Resampling.BICUBIC)


def _no_antialias(image: Image.Image, size: ImageSize) -> Image.Image:
    """OpenCV's bilinear interpolation, which skips pixels when it shrinks.

    Computed in float32 and rounded; OpenCV's fixed-point arithmetic may differ by one level.
    """
    width, height = _longer_rounded(image, size)
    if (width, height) == image.size:
        return image
    pixels = from_image(image)[None].to(torch.float32)
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    return to_image(resized[0].round().to(torch.uint8))


def _longer_rounded(image: Image.Image, size: ImageSize) -> tuple[int, int]:
    """New (width, height) that covers the size, the longer side rounded."""
    scale = max(size[0] / image.height, size[1] / image.width)
    return round(image.width * scale), round(image.height * scale)


RESIZERS: dict[str, Resizer] = {
    "bilinear": _pillow(Image.Resampling.BILINEAR),  # Open-MAGVIT2
    "bicubic": _pillow(Image.Resampling.BICUBIC),  # 1d-tokenizer (TiTok)
    "squash_bicubic": _squashed(Image.Resampling.BICUBIC),  # OmniTokenizer
    "squash_bilinear": _squashed(Image.Resampling.BILINEAR),  # the unofficial ViT-VQGAN
    "adm": _adm,  # guided-diffusion, which LlamaGen uses
    "no_antialias": _no_antialias,  # taming-transformers and IBQ
}


def make_transform(resize: str, size: int | ImageSize | None) -> Callable[[Image.Image, object], Tensor]:
    """The transform of a protocol: resize until the crop is covered, crop the centre; or the image as it is.

    Args:
        resize: a key of `RESIZERS`, or "none" for the image's own size.
        size: (height, width) of the crop, or the side of a square; None with "none".

    Raises:
        ValueError: for an unknown resize, a missing size, or one that "none" has no use for.
    """
    if resize == "none":
        if size is not None:
            raise ValueError(f"resize none keeps the images' own sizes, but an image size of {size} is given")
        return _own_size
    if resize not in RESIZERS:
        raise ValueError(f"no resize is called {resize!r}; available: none, {', '.join(RESIZERS)}")
    if size is None:
        raise ValueError(f"resize {resize} needs an image size: give --image-size explicitly, there is no default")
    return partial(_resize_and_crop, resize=resize, size=from_plain(size))


def _resize_and_crop(image: Picture, generator: object, resize: str, size: ImageSize) -> Tensor:
    height, width = size
    image = RESIZERS[resize](_as_image(image), size)
    # torchvision rounds the half pixel of an odd margin, the others truncate it.
    margins = (image.width - width) / 2.0, (image.height - height) / 2.0
    left, top = (round(m) if resize in ("bilinear", "bicubic") else int(m) for m in margins)
    return from_image(image.crop((left, top, left + width, top + height)))


def _own_size(image: Picture, generator: object) -> Tensor:
    return from_image(_as_image(image))


def _as_image(image: Picture) -> Image.Image:
    return image if isinstance(image, Image.Image) else to_image(torch.from_numpy(np.array(image)))
