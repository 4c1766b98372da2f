"""What is in an image folder, before a long run: every file decoded, broken ones and oddities named and counted."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.data.decoding import UNREADABLE, UnreadableImageError, opened, to_rgb
from open_magvit2.data.isolation import Failure, map_isolated
from open_magvit2.data.sources.image_folder import ImageFolder

_FORMATS = {
    ".jpeg": ("JPEG", "MPO"), ".jpg": ("JPEG", "MPO"), ".png": ("PNG",), ".webp": ("WEBP",), ".bmp": ("BMP", "DIB")
}  # fmt: skip
_NUM_EXAMPLES = 3
_ORIENTATION = 0x0112

DIFFERENT_FORMAT = "content of another format than the name's (decoded all the same)"
ROTATED = "to be rotated, says their EXIF (taken as stored)"
DAMAGED_EXIF = "with damaged EXIF (not used)"
TRANSPARENT = "with transparency (dropped)"
SMALL = "smaller than the training size (enlarged)"


class _Facts(NamedTuple):
    """A decoded file."""

    format: str
    mode: str
    width: int
    height: int
    oddities: tuple[str, ...]
    digest: int  # of the content; 0 if not asked for


@dataclass
class FolderReport:
    """What a folder holds.

    Attributes:
        root: the folder.
        num_images: files looked at.
        num_classes: class folders; 0 for a flat one.
        formats, modes: number of images by Pillow's names.
        shorter_sides: number of images by the shorter side in pixels.
        class_sizes: whole images by class folder, those with none included.
        broken: relative path -> cause, of what cannot be decoded.
        oddities: what -> number of images, worth knowing but decoded.
        examples: what -> a few relative paths.
        duplicates: groups of files with one content, as relative paths; None if not looked for.
    """

    root: str
    num_images: int
    num_classes: int
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    class_sizes: Counter[str] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)
    oddities: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    duplicates: list[list[str]] | None = None

    def add(self, path: str, result: _Facts | Failure) -> None:
        """Count one file."""
        if isinstance(result, Failure):
            self.broken[path] = result.cause
            return
        self.formats[result.format] += 1
        self.modes[result.mode] += 1
        self.shorter_sides[min(result.width, result.height)] += 1
        if self.num_classes:
            self.class_sizes[path.split("/")[0]] += 1
        for oddity in result.oddities:
            self.oddities[oddity] += 1
            examples = self.examples.setdefault(oddity, [])
            if len(examples) < _NUM_EXAMPLES:
                examples.append(path)

    def text(self) -> str:
        """The report for a terminal: broken files last, all of them."""
        whole = self.num_images - len(self.broken)
        lines = [f"{self.root}: {self.num_images:,} images, {whole:,} whole, {len(self.broken):,} broken"]
        if self.class_sizes:
            sizes = sorted(self.class_sizes.values())
            lines.append(f"classes: {self.num_classes:,}, of {sizes[0]:,} to {sizes[-1]:,} whole images")
        if whole:
            sides = np.repeat(*map(np.array, zip(*sorted(self.shorter_sides.items()), strict=True)))
            lines += [
                f"formats: {_listed(self.formats)}",
                f"modes: {_listed(self.modes)}",
                f"shorter side: {sides[0]} to {sides[-1]} pixels, half of the images at least {sides[len(sides) // 2]}",
            ]
        for oddity, number in self.oddities.most_common():
            lines.append(f"note: {number:,} {oddity}, e.g. {', '.join(sorted(self.examples[oddity]))}")
        if self.duplicates is not None:
            extra = sum(len(group) - 1 for group in self.duplicates)
            example = f", e.g. {' = '.join(self.duplicates[0][:_NUM_EXAMPLES])}" if extra else ""
            lines.append(f"note: {extra:,} repeat the content of another file{example}")
        lines += [f"broken: {path}: {cause}" for path, cause in sorted(self.broken.items())]
        return "\n".join(lines)

    def write_exclude_list(self, path: str | os.PathLike[str]) -> None:
        """Write the broken files, a line each: relative path, tab, cause; for `ImageFolder(exclude=...)`.

        Raises:
            ValueError: if a name holds a line break or a tab, which such a list cannot.
        """
        for name in self.broken:
            if set("\n\r\t") & set(name):
                raise ValueError(f"{name!r} has a line break or a tab in its name: rename or delete it")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        text = "".join(f"{name}\t{cause}\n" for name, cause in sorted(self.broken.items()))
        partial.write_bytes(text.encode("utf-8", errors="surrogateescape"))
        os.replace(partial, path)


def check_folder(
    images: ImageFolder,
    image_size: int = 1,
    duplicates: bool = False,
    num_workers: int = 1,
    time_limit: float = 60.0,
    progress: bool = True,
) -> FolderReport:
    """Decode every image in child processes, as training will, and count what is found.

    Memory: the paths, and 8 bytes an image if duplicates are looked for; a file that crashes or hangs the decoder
    costs its process alone and is reported as broken.

    Args:
        images: the folder.
        image_size: training size; images with a shorter side below it are noted.
        duplicates: compare the files' contents (by 64 bits of BLAKE2).
        num_workers: number of processes.
        time_limit: seconds a single file may take.
        progress: draw a progress bar.
    """
    report = FolderReport(images.root, len(images), len(images.classes))
    report.class_sizes.update(dict.fromkeys(images.classes, 0))
    digests = np.zeros(len(images) if duplicates else 0, dtype=np.uint64)

    def inspect(index: int) -> _Facts | Failure:
        return _inspect(os.path.join(images.root, images.relative_path(index)), image_size, duplicates)

    results = map_isolated(inspect, range(len(images)), num_workers, time_limit)
    for index, result in tqdm(results, desc="check", unit="image", total=len(images), disable=not progress):
        report.add(images.relative_path(index), result)
        if duplicates and isinstance(result, _Facts):
            digests[index] = result.digest
    if duplicates:
        report.duplicates = _equal_files(images, digests)
    return report


def leave_out_broken(images: ImageFolder, num_workers: int = 0) -> dict[str, str]:
    """Check a folder and leave its broken images out; a collective call under DDP, rank 0 looks for all.

    Args:
        images: the folder.
        num_workers: number of processes; 0 for one a core, since nothing else goes on meanwhile.

    Returns:
        relative path -> cause, of what was left out.
    """
    num_workers = num_workers or len(os.sched_getaffinity(0))
    found = check_folder(images, num_workers=num_workers).broken if rank() == 0 else None
    broken = dict(sorted(all_gather_object(found)[0].items()))
    images.leave_out(broken)
    return broken


def _inspect(path: str, image_size: int, with_digest: bool) -> _Facts | Failure:
    """Decode one file and look at it; runs in a child process."""
    oddities = []
    try:
        with opened(path) as image:
            file_format, mode, size = image.format or "", image.mode, image.size
            if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                oddities.append(TRANSPARENT)
            to_rgb(image)
            try:
                if image.getexif().get(_ORIENTATION, 1) != 1:
                    oddities.append(ROTATED)
            except UNREADABLE:
                oddities.append(DAMAGED_EXIF)
    except UnreadableImageError as error:
        return Failure(error.cause)
    if file_format not in _FORMATS.get(os.path.splitext(path)[1].lower(), (file_format,)):
        oddities.append(DIFFERENT_FORMAT)
    if min(size) < image_size:
        oddities.append(SMALL)
    return _Facts(file_format, mode, *size, tuple(oddities), _digest(path) if with_digest else 0)


def _digest(path: str) -> int:
    """64 bits of a file's content, never 0."""
    with open(path, "rb") as file:
        return int.from_bytes(hashlib.blake2b(file.read(), digest_size=8).digest(), "little") | 1


def _equal_files(images: ImageFolder, digests: np.ndarray) -> list[list[str]]:
    """Groups of relative paths with one digest."""
    order = np.argsort(digests, kind="stable")
    order = order[np.searchsorted(digests[order], 1) :]  # 0: broken
    starts = np.flatnonzero(np.diff(digests[order])) + 1
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return sorted(sorted(images.relative_path(int(index)) for index in group) for group in groups)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.most_common())
