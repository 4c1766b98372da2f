"""The images named on a command line: files and folders of any depth, each with a name for what is made of it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from open_magvit2.data.sources.image_folder import EXTENSIONS


class ImageFile(NamedTuple):
    """A file to read, and its name among the results."""

    path: Path
    name: str  # unique, without extension; folders below a given folder are kept: "holiday/beach"


def find_images(paths: Iterable[str | Path]) -> list[ImageFile]:
    """Images at and below some paths, in the paths' order, sorted within each folder.

    Folders are searched to any depth for .jpeg .jpg .png .webp .bmp in any case, without hidden files and folders; a
    file given by itself may have any name. A file that is found twice counts once. Different files of one name get a
    number: "beach", "beach_2".

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no image below a folder.
    """
    found: list[ImageFile] = []
    seen: set[Path] = set()
    taken: set[str] = set()
    for given in map(Path, paths):
        for path in _images_at(given):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            inside = path.relative_to(given) if given.is_dir() else Path(path.name)
            # Only an image's extension goes: "v1.5" has none.
            inside = inside.with_suffix("") if inside.suffix.lower() in EXTENSIONS else inside
            name = _unused(inside.as_posix(), taken)
            taken.add(name.casefold())
            found.append(ImageFile(path, name))
    return found


def _images_at(given: Path) -> list[Path]:
    """The file itself, or the sorted images below a folder."""
    if not given.exists():
        raise FileNotFoundError(f"{str(given)!r} does not exist; expected an image or a folder of images")
    if not given.is_dir():
        return [given]
    images: list[Path] = []
    visited: set[str] = set()  # links to folders are followed, once
    for folder, folders, names in os.walk(given, followlinks=True):
        if os.path.realpath(folder) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(folder))
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [Path(folder, n) for n in names if n.lower().endswith(EXTENSIONS) and not n.startswith(".")]
    if not images:
        raise ValueError(f"no images below {str(given)!r}; expected files with the extensions {' '.join(EXTENSIONS)}")
    return sorted(images)


def _unused(name: str, taken: set[str]) -> str:
    """The name, or with the first number that makes it differ from those taken, upper and lower case being equal."""
    number, candidate = 1, name
    while candidate.casefold() in taken:  # some file systems do not tell cases apart
        number += 1
        candidate = f"{name}_{number}"
    return candidate
