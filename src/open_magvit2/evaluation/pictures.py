"""Pictures of reconstructions: side by side, in labelled columns with baselines, and in grids for a README."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from open_magvit2.common import images
from open_magvit2.common.files import with_ending
from open_magvit2.common.fonts import sans
from open_magvit2.common.images import from_image, to_image
from open_magvit2.data.image_files import ImageFile
from open_magvit2.evaluation.baselines import BASELINES, psnr, token_bits
from open_magvit2.evaluation.tiling import Reconstruction

_TITLES = {"jpeg": "JPEG", "bicubic": "bicubic down and up"}
_INK, _GREY, _EMPTY = (25, 25, 25), (105, 105, 105), (238, 238, 238)
_LEAST_WIDTH = 192  # smaller images are enlarged, so that there is something to see and room for the words


class Column(NamedTuple):
    """One image of a comparison, and what stands around it."""

    title: str
    pixels: Tensor | None  # uint8 [3, H, W]; None where a method gives no image
    figures: list[str]  # the lines below it


def side_by_side(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Original left, reconstruction right: uint8 [3, H, W] twice -> [3, H + 4, 2 W + 6]."""
    return images.grid([torch.stack([original, reconstruction])])


def comparison(
    original: Tensor, reconstruction: Reconstruction, codebook_size: int | None, baselines: Sequence[str] = ()
) -> Tensor:
    """The original next to its reconstruction; with baselines, labelled columns with bits per pixel and PSNR.

    Args:
        original: uint8 [3, H, W].
        reconstruction: of it; all its tokens count, those of padding and overlaps too.
        codebook_size: of the tokenizer.
        baselines: keys of `baselines.BASELINES`; each gets at most as many bits as the tokens have.

    Returns:
        uint8 [3, H', W'].

    Raises:
        ValueError: for baselines of a continuous autoencoder.
    """
    if not baselines:
        return side_by_side(original, reconstruction.pixels)
    if codebook_size is None:
        raise ValueError("baselines get as many bits as the tokens have; a continuous autoencoder has no tokens")
    height, width = original.shape[1:]
    max_bits = token_bits(reconstruction.num_tokens, codebook_size)
    tokens = f"{reconstruction.num_tokens:,} tokens of {math.log2(codebook_size):g} bits"
    columns = [
        Column("original", original, [f"{24:.3f} bpp", f"{width} x {height} pixels"]),
        Column("tokenizer", reconstruction.pixels, [_figures(original, reconstruction.pixels, max_bits), tokens]),
    ]
    for name in baselines:
        result = BASELINES[name](original, max_bits)
        if result is None:
            columns.append(Column(_TITLES[name], None, [f"does not fit {max_bits / (height * width):.3f} bpp"]))
            continue
        figures = [_figures(original, result.pixels, result.num_bits), result.settings]
        columns.append(Column(_TITLES[name], result.pixels, figures))
    return labelled_columns(columns)


def labelled_columns(columns: Sequence[Column]) -> Tensor:
    """Images in one row, titles above and figures below; small images enlarged by a whole factor.

    Args:
        columns: at least one with an image; images of one size.

    Returns:
        uint8 [3, H', W'].
    """
    height, width = next(column.pixels.shape[1:] for column in columns if column.pixels is not None)
    enlarge = math.ceil(_LEAST_WIDTH / width)
    size = (width * enlarge, height * enlarge)
    title_font, font = (sans(max(least, size[0] // 24)) for least in (14, 12))
    lengths = [title_font.getlength(column.title) for column in columns]
    lengths += [font.getlength(line) for column in columns for line in column.figures]
    column_width = max(size[0], math.ceil(max(lengths)))
    gap, line = round(title_font.size), round(font.size * 1.35)
    top = gap + round(title_font.size * 1.5)
    num_lines = max(len(column.figures) for column in columns)
    canvas = Image.new(
        "RGB", (len(columns) * (column_width + gap) + gap, top + size[1] + num_lines * line + 2 * gap), "white"
    )
    draw = ImageDraw.Draw(canvas)
    for number, column in enumerate(columns):
        left = gap + number * (column_width + gap)
        middle = left + column_width // 2
        corner = (left + (column_width - size[0]) // 2, top)
        draw.text((middle, gap), column.title, _INK, title_font, anchor="ma")
        if column.pixels is None:
            draw.rectangle((*corner, corner[0] + size[0] - 1, top + size[1] - 1), _EMPTY)
        else:
            canvas.paste(to_image(column.pixels).resize(size, Image.Resampling.NEAREST), corner)
        for i, words in enumerate(column.figures):
            below = top + size[1] + gap // 2 + i * line
            draw.text((middle, below), words, _GREY if i else _INK, font, anchor="ma")
    return from_image(canvas)


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


def places(files: Sequence[ImageFile], *folders: Path | None) -> list[list[Path]]:
    """For each image its PNG file in every folder that is not None; see `check_apart`."""
    found = [[with_ending(folder / file.name, ".png") for folder in folders if folder] for file in files]
    check_apart(itertools.chain(*found), files)
    return found


def check_apart(outputs: Iterable[Path], files: Sequence[ImageFile]) -> None:
    """Refuse, by a ValueError, an output that is one of the images, by whatever path or link."""
    originals = {_identity(file.path) for file in files if file.path.exists()}
    for output in outputs:
        if output.exists() and _identity(output) in originals:
            raise ValueError(f"{output} is one of the images and would be written over: give another place")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def save_png(path: str | Path, pixels: Tensor) -> None:
    """Write uint8 [3, H, W] as a PNG; the folder is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_image(pixels).save(path, format="PNG")


def _figures(original: Tensor, result: Tensor, num_bits: float) -> str:
    """Bits per pixel and PSNR of an image."""
    return f"{num_bits / original[0].numel():.3f} bpp, {psnr(original, result):.2f} dB"
