"""Which files are images, one guarded way to list them, and text files that list them."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from open_magvit2.common.files import write_atomically
from open_magvit2.data.decoding import FORMATS, UnreadableImageError, opened

logger = logging.getLogger(__name__)

# Pillow reads MPO as JPEG.
SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO"))
_NOT_OF_THE_USER = ("__MACOSX", "@eaDir", "lost+found")  # folders that archivers and file systems add
_NUM_EXAMPLES = 3
_ESCAPES = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


class Tally:
    """Counts by kind, with the first names of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count a name."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(name)

    def lines(self) -> list[str]:
        """A line for each kind, the most frequent first."""
        return [
            f"{number:,} {kind}, e.g. {', '.join(map(escaped, sorted(self.examples[kind])))}"
            for kind, number in self.counts.most_common()
        ]


def is_image_file(path: str) -> bool:
    """The rule for every folder: the suffix is one of Pillow's for `FORMATS`; without a suffix, the content decides.

    Files with an image's suffix are not opened here: what they hold is judged when they are decoded.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix:
        return suffix in SUFFIXES
    try:
        with opened(path):
            return True
    except UnreadableImageError:
        return False


def list_folder(root: str, inside: str, left_out: Tally) -> tuple[list[str], list[str]]:
    """Sorted paths, relative to `root`, of the images and of the folders in its folder `inside`.

    Everything else there is counted in `left_out`. No file's status is asked for, except that of links.
    """
    images, folders = [], []
    prefix = f"{inside}/" if inside else ""
    here = os.path.join(root, inside)
    with os.scandir(here) as entries:
        for entry in entries:
            path = prefix + entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if entry.name.startswith(".") or (is_folder and entry.name in _NOT_OF_THE_USER):
                left_out.add("hidden files and folders", path)
            elif is_folder and entry.is_symlink() and _lies_in(here, entry.path):
                left_out.add("links to a folder that they lie in", path)
            elif is_folder:
                folders.append(path)
            elif is_image_file(entry.path):
                images.append(path)
            else:
                left_out.add(f"files {os.path.splitext(path)[1].lower() or 'without suffix'}", path)
    return sorted(images), sorted(folders)


def list_deeply(root: str, inside: str, left_out: Tally) -> list[str]:
    """Images of the folder `inside` of `root`, at any depth, as `list_folder` gives them; links are followed, once."""
    images: list[str] = []
    waiting, visited = [inside], set()
    while waiting:
        folder = waiting.pop()
        if (target := os.path.realpath(os.path.join(root, folder))) not in visited:
            visited.add(target)
            files, folders = list_folder(root, folder, left_out)
            images += files
            waiting += reversed(folders)
    return images


def _lies_in(path: str, folder: str) -> bool:
    """Whether a path is a folder or anywhere below it, links resolved."""
    target = os.path.realpath(folder)
    return os.path.commonpath([target, os.path.realpath(path)]) == target


class ImageFile(NamedTuple):
    """A file to read, and its name among the results."""

    path: Path
    name: str  # unique, without extension; folders below a given folder are kept: "holiday/beach"


def find_images(paths: Iterable[str | Path]) -> list[ImageFile]:
    """Images at and below some paths, in the paths' order, sorted within each folder.

    Folders are searched to any depth (see `list_folder`); a file given by itself may have any name. A file that is
    found twice counts once. Different files of one name get a number: "beach", "beach_2".

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no image below a folder.
    """
    found: dict[str, ImageFile] = {}
    taken: set[str] = set()
    for start in map(Path, paths):
        if not start.exists():
            raise FileNotFoundError(f"{str(start)!r} does not exist; expected an image or a folder of images")
        for path in _images_below(str(start)) if start.is_dir() else [start]:
            if (target := os.path.realpath(path)) in found:
                continue
            inside = path.relative_to(start) if start.is_dir() else Path(path.name)
            # Only an image's suffix goes: "v1.5" has none.
            stem = inside.with_suffix("").as_posix() if inside.suffix.lower() in SUFFIXES else inside.as_posix()
            number, name = 1, stem
            while name.casefold() in taken:  # some file systems do not tell cases apart
                number += 1
                name = f"{stem}_{number}"
            taken.add(name.casefold())
            found[target] = ImageFile(path, name)
    return list(found.values())


def _images_below(root: str) -> list[Path]:
    """The sorted images below a folder."""
    left_out = Tally()
    images = list_deeply(root, "", left_out)
    if left_out.counts:
        logger.warning("left out below %s: %s", root, "; ".join(left_out.lines()))
    if not images:
        raise ValueError(f"no images below {root!r}; expected files with the suffixes {' '.join(sorted(SUFFIXES))}")
    return sorted(Path(root, image) for image in images)


def escaped(name: str) -> str:
    """A name that fits a line up to a tab: line breaks and tabs as `sha256sum` writes them, behind a backslash."""
    if name.startswith("\\") or re.search(r"[\n\r\t]", name):
        return "\\" + re.sub(r"[\\\n\r\t]", lambda match: _ESCAPES[match[0]], name)
    return name


def unescaped(name: str) -> str:
    """The name of which `escaped` made a line."""
    if not name.startswith("\\"):
        return name
    originals = {text: character for character, text in _ESCAPES.items()}
    return re.sub(r"\\[\\nrt]", lambda match: originals[match[0]], name[1:])


def write_list(path: str | os.PathLike[str], causes: Mapping[str, str]) -> None:
    """Write names in order, a line each: name (see `escaped`), tab, cause; for `ImageFolder(exclude=...)`."""
    write_atomically(Path(path), "".join(f"{escaped(name)}\t{cause}\n" for name, cause in sorted(causes.items())))


def read_list(kind: str, path: str) -> Iterator[tuple[int, str, str | None]]:
    """(line number, name, what follows the tab or None) of the lines of a list that are not empty."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{kind} {path!r} does not exist; expected a text file with one path a line")
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            name, tab, rest = line.rstrip("\n").partition("\t")
            if name.strip():
                yield number, unescaped(name), rest if tab else None
