"""A contact sheet: rows photos, columns tokenizers, each cell with its PSNR."""

import argparse
import math
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from open_magvit2.common.fonts import sans
from open_magvit2.common.images import from_image, to_image
from open_magvit2.data.decoding import read_rgb
from open_magvit2.data.image_files import ImageFile
from open_magvit2.evaluation import pictures, tiling, tokenizers
from open_magvit2.evaluation.baselines import psnr
from open_magvit2.evaluation.originals import make_transform
from open_magvit2.protocols import Tokenizer

_INK, _GREY, _EMPTY = (25, 25, 25), (105, 105, 105), (238, 238, 238)
_GAP, _LINE = 12, 19
_LEAST_WIDTH = 128


class Photo(NamedTuple):
    """A row of the sheet."""

    name: str
    original: Tensor  # uint8 [3, H, W]


class Column(NamedTuple):
    """A column of the sheet."""

    title: str
    cells: Sequence[Tensor | str]  # one a photo: uint8 [3, H, W] of the photo's size, or why there is none
    # What each cell is compared with where that is not the photo of its row: protocols differ in their resize.
    originals: Sequence[Tensor] | None = None


def draw(photos: Sequence[Photo], columns: Sequence[Column], width: int = 256) -> Tensor:
    """The sheet, with the originals in its first column.

    Args:
        photos: at least one; they may differ in size.
        columns: of tokenizers.
        width: of every picture on the sheet, at least 128; larger ones are shrunk, smaller ones enlarged by a whole
            factor. PSNR is of all pixels as they were.

    Returns:
        uint8 [3, H', W'].
    """
    if not photos or any(len(column.cells) != len(photos) for column in columns):
        raise ValueError(f"a contact sheet needs a cell for each of its {len(photos)} photos in every column")
    width = max(width, _LEAST_WIDTH)
    sizes = [_shown(photo.original, width) for photo in photos]
    width = max(size[0] for size in sizes)
    font = sans(12)
    letters = max(1, int(width / font.getlength("n")))
    titles = [textwrap.wrap(column.title, letters) for column in columns]
    top = _GAP + _LINE * max([1, *map(len, titles)])
    height = top + sum(size[1] + _LINE + _GAP for size in sizes)
    canvas = Image.new("RGB", (_GAP + (width + _GAP) * (1 + len(columns)), height + _GAP), "white")
    pen = ImageDraw.Draw(canvas)
    for number, lines in enumerate([["original"], *titles]):
        for i, words in enumerate(lines):
            pen.text((_GAP + number * (width + _GAP), _GAP // 2 + i * _LINE), words, _INK, font)
    for row, (photo, size) in enumerate(zip(photos, sizes, strict=True)):
        _paste(canvas, pen, photo.original, (_GAP, top), size, photo.name[:letters], font)
        for number, column in enumerate(columns, 1):
            cell, corner = column.cells[row], (_GAP + number * (width + _GAP), top)
            if isinstance(cell, str):
                pen.rectangle((*corner, corner[0] + size[0] - 1, top + size[1] - 1), _EMPTY)
                for i, words in enumerate(textwrap.wrap(cell, letters - 1)[: size[1] // _LINE]):
                    pen.text((corner[0] + 4, top + 2 + i * _LINE), words, _GREY, font)
                continue
            against = photo.original if column.originals is None else column.originals[row]
            _paste(canvas, pen, cell, corner, size, f"{psnr(against, cell):.2f} dB", font)
        top += size[1] + _LINE + _GAP
    return from_image(canvas)


def reconstruct(
    photos: Sequence[Photo],
    loaders: dict[str, Callable[[], Tokenizer]],
    device: str = "cpu",
    tile: int | None = None,
    overlap: int | None = None,
) -> list[Column]:
    """The columns of tokenizers, each loaded, used and forgotten before the next.

    Args:
        photos: of any size; one that a tokenizer refuses leaves a cell with the reason.
        loaders: of the tokenizers, by the titles of their columns.
        device: where they run.
        tile, overlap: see `tiling.reconstruct`.
    """
    columns = []
    for title, load in loaders.items():
        tokenizer, cells = load(), []
        for photo in photos:
            try:
                cells.append(tiling.reconstruct(tokenizer, photo.original, tile, overlap, device).pixels)
            except ValueError as error:
                cells.append(str(error))
        columns.append(Column(title, cells))
    return columns


def write(args: argparse.Namespace, files: Sequence[ImageFile]) -> str:
    """Write the sheet that a command line (`command_line.parse_reconstruct`) asks for.

    Args:
        args: the flags.
        files: the images.

    Returns:
        what to tell: the mean PSNR of every tokenizer.

    Raises:
        ValueError: for an image that cannot be read, with all such images, and an output that is one of the images.
    """
    pictures.check_apart([args.output], files)
    transform, photos = make_transform("bilinear" if args.image_size else "none", args.image_size), []
    unreadable = []
    for path, name in files:
        try:
            photos.append(Photo(name, transform(read_rgb(path, args.max_pixels), None)))
        except ValueError as error:
            unreadable.append(str(error))
    if unreadable:
        raise ValueError("\n".join(unreadable))
    loaders = {
        title: partial(tokenizers.load, args.tokenizer, checkpoint, args.device, **args.loading)
        for title, checkpoint in zip(titles(args.compare), args.compare, strict=True)
    }
    columns = reconstruct(photos, loaders, args.device, args.tile, args.overlap)
    pictures.save_png(args.output, draw(photos, columns))
    lines = []
    for column in columns:
        pairs = zip(photos, column.cells, strict=True)
        values = [psnr(photo.original, cell) for photo, cell in pairs if not isinstance(cell, str)]
        mean = f"mean PSNR {sum(values) / len(values):.2f} dB of {len(values)} images" if values else "took no image"
        lines.append(f"{column.title}: {mean}")
    return "\n".join([*lines, f"{args.output}: {len(photos)} images"])


def titles(paths: Sequence[str]) -> list[str]:
    """A title for each file: its name, or as many of its folders as tell it from the others."""
    parts = [Path(path).parts for path in paths]
    number = next((n for n in range(1, 1 + max(map(len, parts))) if len({p[-n:] for p in parts}) == len(parts)), 1)
    return ["/".join(p[-number:]) for p in parts]


def _shown(pixels: Tensor, width: int) -> tuple[int, int]:
    height, own = pixels.shape[1:]
    if own >= width:
        return width, max(1, round(height * width / own))
    enlarge = math.ceil(_LEAST_WIDTH / own)
    return own * enlarge, height * enlarge


def _paste(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    pixels: Tensor,
    corner: tuple[int, int],
    size: tuple[int, int],
    words: str,
    font: ImageFont.ImageFont,
) -> None:
    shrinks = pixels.shape[2] > size[0]
    kernel = Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST
    canvas.paste(to_image(pixels).resize(size, kernel), corner)
    pen.text((corner[0], corner[1] + size[1] + 1), words, _GREY, font)
