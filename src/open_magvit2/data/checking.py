"""Check of an image folder before a long run: every file is decoded, broken ones and oddities are named and counted."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from open_magvit2.common.arguments import integer
from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.common.files import sha256_of
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.data.decoding import UNREADABLE, UnreadableImageError, opened, to_rgb
from open_magvit2.data.image_files import Tally, escaped
from open_magvit2.data.isolation import Failure, map_isolated
from open_magvit2.data.sources.image_folder import ImageFolder

_SAME_KIND = {"MPO": "JPEG", "DIB": "BMP"}
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
    shorter_side: int
    oddities: list[str]
    digest: int  # of the content, above 0; 0 if not asked for


@dataclass
class FolderReport:
    """Contents of a folder.

    Attributes:
        root: the folder.
        num_images: files looked at.
        left_out: what the folder holds that was not looked at.
        class_sizes: whole images by class folder, those with none included; empty for a flat folder.
        formats, modes: number of images by Pillow's names.
        shorter_sides: number of images by the shorter side in pixels.
        broken: relative path -> cause, of what cannot be decoded.
        oddities: worth knowing, but decoded.
        duplicates: groups of files with one content, as relative paths; None if not looked for.
    """

    root: str
    num_images: int
    left_out: Tally
    class_sizes: Counter[str]
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)
    oddities: Tally = field(default_factory=Tally)
    duplicates: list[list[str]] | None = None

    def text(self) -> str:
        """The report for a terminal: broken files last, all of them."""
        whole = self.num_images - len(self.broken)
        lines = [f"{self.root}: {self.num_images:,} images, {whole:,} whole, {len(self.broken):,} broken"]
        lines += [f"left out: {line}" for line in self.left_out.lines()]
        if sizes := sorted(self.class_sizes.values()):
            lines.append(f"classes: {len(sizes):,}, of {sizes[0]:,} to {sizes[-1]:,} whole images")
        if whole:
            sides = sorted(self.shorter_sides.elements())
            lines += [
                f"formats: {_listed(self.formats)}",
                f"modes: {_listed(self.modes)}",
                f"shorter side: {sides[0]} to {sides[-1]} pixels, half of the images at least {sides[len(sides) // 2]}",
            ]
        lines += [f"note: {line}" for line in self.oddities.lines()]
        if self.duplicates is not None:
            extra = sum(len(group) - 1 for group in self.duplicates)
            example = f", e.g. {' = '.join(map(escaped, self.duplicates[0][:3]))}" if extra else ""
            lines.append(f"note: {extra:,} repeat the content of another file{example}")
        lines += [f"broken: {escaped(path)}: {cause}" for path, cause in sorted(self.broken.items())]
        return "\n".join(lines)


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
        duplicates: compare the files' contents (by 64 bits of SHA-256).
        num_workers: number of processes.
        time_limit: seconds a single file may take.
        progress: draw a progress bar.
    """
    integer(1, image_size=image_size)
    report = FolderReport(images.root, len(images), images.left_out, Counter(dict.fromkeys(images.classes, 0)))
    digests = np.zeros(len(images) if duplicates else 0, dtype=np.uint64)

    def inspect(index: int) -> _Facts | Failure:
        path = os.path.join(images.root, images.relative_path(index))
        try:
            return _inspect(path, images.max_pixels, image_size, duplicates)
        except UnreadableImageError as error:
            return Failure(error.cause)

    results = map_isolated(inspect, range(len(images)), num_workers, time_limit)
    for index, result in progress_bar(results, desc="check", unit="image", total=len(images), disable=not progress):
        path = images.relative_path(index)
        if isinstance(result, Failure):
            report.broken[path] = result.cause
            continue
        report.formats[result.format] += 1
        report.modes[result.mode] += 1
        report.shorter_sides[result.shorter_side] += 1
        if images.classes:
            report.class_sizes[path.split("/")[0]] += 1
        for oddity in result.oddities:
            report.oddities.add(oddity, path)
        if duplicates:
            digests[index] = result.digest
    if duplicates:
        order = np.argsort(digests, kind="stable")
        order = order[np.searchsorted(digests[order], 1) :]  # 0: broken
        groups = np.split(order, np.flatnonzero(np.diff(digests[order])) + 1)
        report.duplicates = sorted(sorted(map(images.relative_path, group)) for group in groups if len(group) > 1)
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


def _inspect(path: str, max_pixels: int, image_size: int, with_digest: bool) -> _Facts:
    """Decode one file and look at it; runs in a child process."""
    oddities = []
    with opened(path, max_pixels) as image:
        kind, mode, side = image.format or "", image.mode, min(image.size)
        image.load()
        if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            oddities.append(TRANSPARENT)
        to_rgb(image)
        try:
            if image.getexif().get(_ORIENTATION, 1) != 1:
                oddities.append(ROTATED)
        except UNREADABLE:
            oddities.append(DAMAGED_EXIF)
        digest = int(sha256_of(Path(path))[:16], 16) | 1 if with_digest else 0
    named = Image.registered_extensions().get(os.path.splitext(path)[1].lower(), kind)
    if _SAME_KIND.get(named, named) != _SAME_KIND.get(kind, kind):
        oddities.append(DIFFERENT_FORMAT)
    if side < image_size:
        oddities.append(SMALL)
    return _Facts(kind, mode, side, oddities, digest)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.most_common())
