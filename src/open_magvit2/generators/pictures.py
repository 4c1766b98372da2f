"""Generated and edited images in captioned rows, and as files."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from open_magvit2.common import environment
from open_magvit2.common.arguments import integer
from open_magvit2.common.files import with_ending, write_atomically
from open_magvit2.common.fonts import sans
from open_magvit2.common.images import to_image
from open_magvit2.data.decoding import opened, read_rgb, to_rgb
from open_magvit2.data.transforms import ResizeCenterCrop
from open_magvit2.generators.decoding import generate_images, image_seed, image_size
from open_magvit2.generators.editing import box_area, edit, new_tokens
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.protocols import Generator, Tokenizer

GRID, RECORD = "grid.png", "pictures.json"
Row = tuple[str, Tensor]  # caption, images uint8 [N, 3, H, W]
_GREY = 128
_INK, _LEAST_SIDE, _GAP = (25, 25, 25), 96, 4


def captioned_rows(rows: Sequence[Row]) -> Image.Image:
    """Rows of images, each below its caption; small images are enlarged by a whole factor.

    Args:
        rows: (caption, uint8 [N, 3, H, W]) of each; N may differ.
    """
    height, width = rows[0][1].shape[2:]
    enlarge = math.ceil(_LEAST_SIDE / min(height, width))
    size = (width * enlarge, height * enlarge)
    font = sans(max(12, size[0] // 20))
    line = round(font.size * 1.6)
    columns = max(len(images) for _, images in rows)
    longest = max(math.ceil(font.getlength(caption)) for caption, _ in rows)
    full = max(columns * (size[0] + _GAP), longest + _GAP) + _GAP
    canvas = Image.new("RGB", (full, len(rows) * (size[1] + line + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (caption, images) in enumerate(rows):
        top = _GAP + row * (size[1] + line + _GAP)
        draw.text((_GAP, top + line // 2), caption, _INK, font, anchor="lm")
        for column, pixels in enumerate(images):
            enlarged = to_image(pixels).resize(size, Image.Resampling.NEAREST)
            canvas.paste(enlarged, (_GAP + column * (size[0] + _GAP), top + line))
    return canvas


def class_rows(
    generator: Generator,
    tokenizer: Tokenizer,
    settings: Any,
    classes: Mapping[int, str],
    per_class: int,
    seed: int,
    device: torch.device,
    batch_size: int = 50,
) -> list[Row]:
    """A row of images of each class, the same ones whatever the other classes are.

    Args:
        generator, tokenizer: on `device`.
        settings: of the generator.
        classes: number -> name.
        per_class: images of each.
        seed: of the run; image i of every class has `image_seed(seed, i)`.
        device: to compute on.
        batch_size: images at once.

    Raises:
        ValueError: for a tokenizer that does not fit the generator.
    """
    integer(1, per_class=per_class, batch_size=batch_size)
    image_size(generator, tokenizer)
    parts = _batches(classes, per_class, seed, batch_size)
    made = [generate_images(generator, tokenizer, *part, settings, device).cpu() for part in parts]
    rows = torch.cat(made).split(per_class)
    return [(_caption(*item), images) for item, images in zip(classes.items(), rows, strict=True)]


def edited_rows(
    generator: MaskedGenerator,
    tokenizer: Tokenizer,
    settings: Any,
    classes: Mapping[int, str],
    per_class: int,
    seed: int,
    photo: Path,
    area: Path | Sequence[int],
    outside: bool = False,
    keep_pixels: bool = False,
    batch_size: int = 50,
) -> list[Row]:
    """A photo and its area, then a row of edits for each class.

    Args:
        generator, tokenizer, settings, classes, per_class, seed: see `class_rows`.
        photo: resized and cropped to the tokenizer's size.
        area: what is made anew: a picture, white there, which is resized and cropped as the photo is; or a box (top,
            left, bottom, right) in pixels of the cropped photo.
        outside: make what is outside of the area instead.
        keep_pixels: see `editing.edit`.
        batch_size: images at once.

    Raises:
        ValueError: for files that cannot be read, a mask of another size than the photo's or with transparency, a box
            out of the image, an area of no or of all tokens, or a generator that cannot keep tokens.
    """
    integer(1, per_class=per_class, batch_size=batch_size)
    size = image_size(generator, tokenizer)
    crop = ResizeCenterCrop(size)
    whole = read_rgb(photo)
    image = crop(whole, None)
    if isinstance(area, Path):
        chosen = crop(_read_mask(area, photo, whole.size), None).float().mean(dim=0) >= _GREY
        chosen = ~chosen if outside else chosen
    else:
        chosen = box_area(size, area, outside)
    is_new = new_tokens(chosen, generator.grid)
    if is_new.all() or not is_new.any():
        raise ValueError(
            f"expected an area that makes some tokens anew and keeps some, got {int(is_new.sum())} of {is_new.numel()} "
            f"to make, of {int(chosen.sum())} of the {size[0]} x {size[1]} pixels: change the box, or the mask, which "
            f"is white ({_GREY} to 255) where the photo is made anew"
        )
    parts = _batches(classes, per_class, seed, batch_size)
    edits = [edit(generator, tokenizer, image, chosen, *part, settings, keep_pixels) for part in parts]
    made = torch.cat(edits).split(per_class)
    shown = torch.where(chosen, torch.full_like(image, _GREY), image)
    rows = [(_caption(*item), images) for item, images in zip(classes.items(), made, strict=True)]
    return [(f"{photo.name}; grey is made anew", torch.stack([image, shown])), *rows]


def _read_mask(path: Path, photo: Path, size: tuple[int, int]) -> Image.Image:
    """A mask for a photo of a size (width, height), as RGB."""
    with opened(path) as image:
        image.load()
        is_opaque = not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema()[0] == 255
        mask = to_rgb(image)
    if not is_opaque:
        raise ValueError(f"{path} is transparent in parts, which a mask does not use: save it in white on black")
    if mask.size != size:
        sizes = "{} x {}, the photo {} {} x {}".format(*mask.size, photo, *size)
        raise ValueError(f"the mask {path} has width x height {sizes}: expected one size")
    return mask


def write_rows(
    folder: Path, rows: Sequence[Row], made_by: Mapping[str, Any] | None = None, inputs: Sequence[Path] = ()
) -> Path:
    """Write grid.png with all rows, every image as "<caption>_<number>.png", and pictures.json, their record.

    The pictures that an earlier record lists are deleted before, and no other file.

    Args:
        folder: to write into.
        rows: (caption, uint8 [N, 3, H, W]) of each.
        made_by: plain values for the record: what decides the pixels.
        inputs: files of the user, which are neither deleted nor written over.

    Returns:
        the path of the grid.

    Raises:
        ValueError: if the earlier record is damaged, or an input is among the pictures in the folder.
    """
    files = [
        (with_ending(folder / _file_name(caption), f"_{number}.png"), pixels)
        for caption, images in rows
        for number, pixels in enumerate(images)
    ]
    listed = [folder / name for name in _listed(folder / RECORD)]
    if taken := {path.resolve() for path in inputs} & {path.resolve() for path in (*listed, *(f for f, _ in files))}:
        raise ValueError(f"{taken.pop()} is one of the pictures that are written anew there: choose another folder")
    for path in listed:
        path.unlink(missing_ok=True)
    program = {"versions": environment.versions(), "git": environment.git(), "command": environment.command()}
    names = [*(file.name for file, _ in files), GRID]
    record = {"files": names, **(made_by or {}), "written_utc": environment.now(), **program}
    write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")
    for file, pixels in files:
        to_image(pixels).save(file)
    captioned_rows(rows).save(folder / GRID)
    return folder / GRID


def _listed(path: Path) -> list[str]:
    """The names of the pictures of an earlier run, by its record."""
    if not path.is_file():
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["files"]
        if any(Path(name).name != name or not name.endswith(".png") for name in names):
            raise ValueError(f"expected names of PNG files, got {names}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): delete it and the pictures beside it") from error
    return names


def _file_name(caption: str) -> str:
    """A caption with one "_" for all between letters, marks and digits of any alphabet, points and hyphens."""
    kept = (
        c if c in ".-" or unicodedata.category(c)[0] in "LMN" else "_" for c in unicodedata.normalize("NFC", caption)
    )
    return re.sub("__+", "_", "".join(kept)).strip("_") or "_"


def _batches(classes: Mapping[int, str], per_class: int, seed: int, batch_size: int) -> list[tuple[Tensor, list[int]]]:
    """Labels int64 [B] and a seed each of the images of all classes, B at most `batch_size`."""
    labels = torch.tensor(list(classes)).repeat_interleave(per_class)
    seeds = [image_seed(seed, number) for _ in classes for number in range(per_class)]
    parts = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
    return [(labels[part], seeds[part]) for part in parts]


def _caption(number: int, name: str) -> str:
    return name if name == str(number) else f"{number} {name}"
