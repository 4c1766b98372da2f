"""What JPEG and bicubic reduction make of an image within the bits of its tokens: baselines for a reconstruction.

Tokens cost log2(codebook_size) bits each, without entropy coding. A JPEG file counts with all it holds, its headers
included: some 300 bytes, which is most of the budget of a small image and little of a large one.
"""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from open_magvit2.evaluation.metrics.psnr import decibels, mean_squared_error
from open_magvit2.evaluation.pillow import from_image, to_image

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
    """The best JPEG of at most so many bits; None if there is none.

    At low rates JPEG of a reduced image beats a low quality at full size. So the image is tried at full size and at
    some smaller ones, each at the highest quality that fits, and the one with the best PSNR is taken: what a careful
    user of JPEG would do. Chroma is halved as usual (4:2:0), Huffman tables are optimised.

    Args:
        pixels: uint8 [3, H, W].
        max_bits: size of the file at most, headers included.
    """
    original = to_image(pixels)
    best, best_psnr = None, -math.inf
    for scale in SCALES:
        size = tuple(max(1, round(side * scale)) for side in original.size)
        reduced = original if size == original.size else original.resize(size, Image.Resampling.LANCZOS)
        quality = highest_quality(reduced, max_bits)
        if quality is None:
            continue
        file = jpeg_file(reduced, quality)
        decoded = Image.open(io.BytesIO(file)).convert("RGB")
        result = from_image(
            decoded if size == original.size else decoded.resize(original.size, Image.Resampling.BICUBIC)
        )
        decoded_psnr = psnr(pixels, result)
        if decoded_psnr > best_psnr:
            settings = f"quality {quality} at {size[0]} x {size[1]}"
            best, best_psnr = Baseline(result, 8 * len(file), settings), decoded_psnr
    return best


def highest_quality(image: Image.Image, max_bits: float) -> int | None:
    """The quality whose file has at most so many bits while the next one's has more; None if quality 1 has more.

    Found by bisection: a few files instead of a hundred.
    """
    if 8 * len(jpeg_file(image, QUALITIES[0])) > max_bits:
        return None
    fits, too_large = QUALITIES[0], QUALITIES[-1] + 1
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if 8 * len(jpeg_file(image, middle)) <= max_bits:
            fits = middle
        else:
            too_large = middle
    return fits


def jpeg_file(image: Image.Image, quality: int) -> bytes:
    """The JPEG file of an RGB image at a quality of 1 to 100."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()


def bicubic(pixels: Tensor, max_bits: float) -> Baseline | None:
    """The image reduced until its raw 8-bit RGB pixels have at most so many bits, and enlarged again; both bicubic.

    None if not even one pixel fits.
    """
    original = to_image(pixels)
    num_pixels = int(max_bits // 24)
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
    """Names of baselines separated by commas, e.g. "jpeg,bicubic"; none of an empty string.

    Raises:
        ValueError: for a name that is none of `BASELINES`.
    """
    names = [name.strip() for name in words.split(",") if name.strip()]
    if unknown := [name for name in names if name not in BASELINES]:
        raise ValueError(f"no baseline is called {', '.join(unknown)}; available: {', '.join(BASELINES)}")
    return names
