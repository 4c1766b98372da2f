"""JPEG and bicubic reduction of an image within the bits of its tokens: baselines for a reconstruction.

Tokens cost log2(codebook_size) bits each, without entropy coding. A JPEG file counts with its headers: some 300 bytes,
which is most of the budget of a small image and little of a large one.
"""

import bisect
import io
import math
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from open_magvit2.common.images import from_image, to_image
from open_magvit2.evaluation.metrics.psnr import decibels, mean_squared_error

QUALITIES = range(1, 101)  # of Pillow's JPEG encoder
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)  # of the sides, before JPEG


class Baseline(NamedTuple):
    """An image after a conventional method."""

    pixels: Tensor  # uint8 [3, H, W], of the original's size
    num_bits: int
    settings: str  # e.g. "quality 35 at 96 x 64"


def token_bits(num_tokens: int, codebook_size: int) -> float:
    """Bits of an image's tokens."""
    return num_tokens * math.log2(codebook_size)


def jpeg(pixels: Tensor, max_bits: float) -> Baseline | None:
    """The best JPEG of an image uint8 [3, H, W] with at most so many bits, headers included; None if there is none.

    At low rates JPEG of a reduced image beats a low quality at full size. Therefore the image is tried at several
    sizes, each at the highest quality that fits, and the best PSNR wins. Chroma is halved as usual (4:2:0), Huffman
    tables are optimised.
    """
    original, results = to_image(pixels), []
    for scale in SCALES:
        size = tuple(max(1, round(side * scale)) for side in original.size)
        reduced = original.resize(size, Image.Resampling.LANCZOS)  # at its own size Pillow copies
        quality = highest_quality(reduced, max_bits)
        if quality is not None:
            file = jpeg_file(reduced, quality)
            decoded = Image.open(io.BytesIO(file)).convert("RGB").resize(original.size, Image.Resampling.BICUBIC)
            settings = f"quality {quality} at {size[0]} x {size[1]}"
            results.append(Baseline(from_image(decoded), 8 * len(file), settings))
    return max(results, key=lambda result: psnr(pixels, result.pixels), default=None)


def highest_quality(image: Image.Image, max_bits: float) -> int | None:
    """The quality whose file has at most so many bits while the next one's has more; None if quality 1 has more."""
    number = bisect.bisect_right(QUALITIES, max_bits, key=lambda quality: 8 * len(jpeg_file(image, quality)))
    return QUALITIES[number - 1] if number else None


def jpeg_file(image: Image.Image, quality: int) -> bytes:
    """The JPEG file of an RGB image at a quality of 1 to 100."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()


def bicubic(pixels: Tensor, max_bits: float) -> Baseline | None:
    """An image uint8 [3, H, W] reduced until its raw 8-bit RGB pixels have at most so many bits, and enlarged again.

    Both are bicubic; None if not even one pixel fits.
    """
    original, num_pixels = to_image(pixels), int(max_bits // 24)
    if num_pixels < 1:
        return None
    scale = min(1.0, math.sqrt(num_pixels / (original.width * original.height)))
    width = min(max(1, round(original.width * scale)), num_pixels)
    height = min(original.height, num_pixels // width)  # not rounded, to use the bits there are
    reduced = original.resize((width, height), Image.Resampling.BICUBIC)
    enlarged = reduced.resize(original.size, Image.Resampling.BICUBIC)
    return Baseline(from_image(enlarged), 24 * width * height, f"{width} x {height} pixels")


BASELINES: dict[str, Callable[[Tensor, float], Baseline | None]] = {"jpeg": jpeg, "bicubic": bicubic}


def psnr(first: Tensor, second: Tensor) -> float:
    """PSNR in dB between two images uint8 [3, H, W]; infinite where they are equal."""
    return decibels(mean_squared_error(first[None], second[None])).item()


def parse(words: str) -> list[str]:
    """Names of baselines separated by commas, e.g. "jpeg,bicubic"; a ValueError for one that is unknown."""
    names = [name.strip() for name in words.split(",") if name.strip()]
    if unknown := [name for name in names if name not in BASELINES]:
        raise ValueError(f"no baseline is called {', '.join(unknown)}; available: {', '.join(BASELINES)}")
    return names
