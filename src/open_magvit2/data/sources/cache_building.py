"""Writes a cache of resized images: sizes first, then file by file in parallel; a killed run continues where it was."""

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from torch.utils.data import DataLoader, Dataset

from open_magvit2.common.files import partial_path, sha256, write_atomically
from open_magvit2.data.decoding import UnreadableImageError, opened
from open_magvit2.data.sources import cache_format
from open_magvit2.data.sources.cache_format import IMAGES, PATHS, ROW, pixel_file
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import resize_to_cover, resized_size

logger = logging.getLogger(__name__)

BUILDING, PLAN, BROKEN = "building", "plan.json", "broken.txt"
Progress = Callable[[int], Any]  # told the number of images that were done since it was last called


class Plan(NamedTuple):
    """What will be written; a run that was interrupted is continued only by one with the same plan."""

    image_size: int
    images_per_file: int
    num_source_images: int
    num_bytes: int  # of all pixels, if no image is broken
    fingerprint: str  # of the source: paths, labels, files' sizes, images' sizes
    resizer: str

    @property
    def num_files(self) -> int:
        """Files of pixels."""
        return -(-self.num_source_images // self.images_per_file)


class BrokenImagesError(ValueError):
    """Images of the source that cannot be decoded, so that the cache was not finished."""


def make_plan(
    source: ImageFolder, image_size: int, images_per_file: int, num_workers: int, progress: Progress = lambda _: None
) -> Plan:
    """Read the sizes of all images from their files' heads.

    Args:
        source: the images.
        image_size: of the shorter side after resizing.
        images_per_file: what a killed run loses at most, for each worker.
        num_workers: processes; 0 for none beside this one.
        progress: called now and then.
    """
    if image_size < 1 or images_per_file < 1:
        raise ValueError(f"expected image_size and images_per_file >= 1, got {image_size} and {images_per_file}")
    digest, num_bytes = hashlib.sha256(), 0
    sizes = _Sizes(source, images_per_file)
    for number, found in enumerate(DataLoader(sizes, batch_size=None, num_workers=num_workers)):
        for index, (file_size, width, height) in enumerate(found, start=number * images_per_file):
            line = (source.relative_path(index), source.label(index), file_size, width, height)
            digest.update(repr(line).encode("utf-8", "surrogateescape") + b"\n")
            if width and height:
                new_width, new_height = resized_size(width, height, image_size)
                num_bytes += 3 * new_width * new_height
        progress(len(found))
    resizer = f"Pillow {PIL.__version__}, bilinear"
    return Plan(image_size, images_per_file, len(source), num_bytes, digest.hexdigest(), resizer)


def build(
    source: ImageFolder,
    root: Path,
    plan: Plan,
    num_workers: int,
    skip_broken: bool = False,
    progress: Progress = lambda _: None,
) -> int:
    """Write the cache, or what an interrupted run left to write of it.

    Args:
        source: the images.
        root: folder of the cache; made if it is not there.
        plan: made from the same source.
        num_workers: processes; 0 for none beside this one.
        skip_broken: leave images out that cannot be decoded; the header lists them.
        progress: called after every file; images of an interrupted run come first.

    Returns:
        number of images in the cache.

    Raises:
        BrokenImagesError: if images cannot be decoded and `skip_broken` is not set. All the others are written by then;
            `broken.txt` lists these, and is a list for `ImageFolder(exclude=...)`.
        ValueError: if the folder holds something else, or the disk is too small.
        BlockingIOError: if another process writes this cache.
    """
    with _only_writer(root):
        if (root / cache_format.HEADER).exists():
            header = cache_format.read_header(root)
            _refuse_other_plan(root, header["plan"], plan)
            shutil.rmtree(root / BUILDING, ignore_errors=True)
            progress(plan.num_source_images)
            return header["num_images"]
        records = _continue(root, plan, skip_broken)
        for record in records.values():
            progress(len(record["images"]) + len(record["left_out"]))
        missing = [number for number in range(plan.num_files) if number not in records]
        files = _PixelFiles(source, root, plan, skip_broken, missing)
        for number, record in DataLoader(files, batch_size=None, num_workers=num_workers):
            records[number] = record
            progress(len(record["images"]) + len(record["left_out"]))
        ordered = [records[number] for number in range(plan.num_files)]
        left_out = [tuple(entry) for record in ordered for entry in record["left_out"]]
        _report_broken(root, left_out, skip_broken)
        return _finish(source, root, plan, ordered, [path for path, _ in left_out])


class _Sizes(Dataset[list[tuple[int, int, int]]]):
    """(bytes, width, height) of the source's images, some at a time; zeros where there is no such file or no image."""

    def __init__(self, source: ImageFolder, step: int) -> None:
        self.source = source
        self.step = step

    def __len__(self) -> int:
        return -(-len(self.source) // self.step)

    def __getitem__(self, number: int) -> list[tuple[int, int, int]]:
        indices = range(number * self.step, min((number + 1) * self.step, len(self.source)))
        return [self._size(self.source.path(index)) for index in indices]

    def _size(self, path: str) -> tuple[int, int, int]:
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        try:
            with opened(path, self.source.max_pixels) as image:
                return size, *image.size
        except UnreadableImageError:  # counted and named when it is decoded
            return size, 0, 0


class _PixelFiles(Dataset[tuple[int, dict[str, Any]]]):
    """Writes the pixel files with these numbers; reading an element writes a file."""

    def __init__(self, source: ImageFolder, root: Path, plan: Plan, skip_broken: bool, numbers: list[int]) -> None:
        self.source, self.root, self.plan, self.skip_broken = source, root, plan, skip_broken
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> tuple[int, dict[str, Any]]:
        number, step = self.numbers[position], self.plan.images_per_file
        path = self.root / pixel_file(number)
        partial = partial_path(path)
        images, left_out = [], []
        with open(partial, "wb") as file:
            for index in range(number * step, min((number + 1) * step, self.plan.num_source_images)):
                try:
                    image = resize_to_cover(self.source.read(index).image, self.plan.image_size)
                except UnreadableImageError as error:
                    left_out.append((self.source.relative_path(index), error.cause))
                    continue
                planes = np.asarray(image).transpose(2, 0, 1).tobytes()
                images.append((index, file.tell(), image.height, image.width, zlib.crc32(planes)))
                file.write(planes)
            file.flush()
            os.fsync(file.fileno())
        record = {"images": images, "left_out": left_out, "num_bytes": sum(3 * i[2] * i[3] for i in images)}
        if self.skip_broken or not left_out:
            os.replace(partial, path)
            # The record comes after the pixels: where it is, they are whole.
            write_atomically(self.root / BUILDING / f"{number:05}.json", json.dumps(record).encode())
        else:
            partial.unlink()
        return number, record


@contextlib.contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Keep a second process from writing the same cache."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as lock:
        # Unlike flock's, this lock is not inherited: workers that outlive a killed process do not hold it.
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BlockingIOError(f"another process writes the cache {str(root)!r}: wait for it or stop it") from error
        yield


def _continue(root: Path, plan: Plan, skip_broken: bool) -> dict[int, dict[str, Any]]:
    """Records of the files an interrupted run has finished, after removing what it has not."""
    building = root / BUILDING
    if (building / PLAN).exists():
        _refuse_other_plan(root, json.loads((building / PLAN).read_bytes()), plan)
    elif strangers := sorted(path.name for path in root.iterdir() if path.name not in (".lock", BUILDING)):
        raise ValueError(f"{str(root)!r} holds other files ({', '.join(strangers[:3])}); expected an empty folder")
    building.mkdir(exist_ok=True)
    for partial in [*root.glob("*.partial"), *building.glob("*.partial")]:
        partial.unlink()
    records = {}
    for path in sorted(building.glob("[0-9]*.json")):
        record, pixels = json.loads(path.read_bytes()), root / pixel_file(int(path.stem))
        if (
            pixels.is_file()
            and pixels.stat().st_size == record["num_bytes"]
            and (skip_broken or not record["left_out"])
        ):
            records[int(path.stem)] = record
    needed = plan.num_bytes - sum(record["num_bytes"] for record in records.values())
    if (free := shutil.disk_usage(root).free) < needed:
        raise ValueError(f"{str(root)!r} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB still to write")
    write_atomically(building / PLAN, json.dumps(plan._asdict()).encode())
    return records


def _refuse_other_plan(root: Path, found: dict[str, Any], plan: Plan) -> None:
    wanted = plan._asdict()
    if differences := [
        f"{key} {found.get(key)}, expected {wanted[key]}" for key in wanted if found.get(key) != wanted[key]
    ]:
        raise ValueError(
            f"{str(root)!r} holds a cache that was begun with {'; '.join(differences)}. Give another folder, or delete "
            "this one; a fingerprint changes when files of the source change"
        )


def _report_broken(root: Path, left_out: list[tuple[str, str]], skip_broken: bool) -> None:
    if not left_out:
        return
    write_atomically(
        root / BROKEN, "".join(f"{path}\t{cause}\n" for path, cause in left_out).encode("utf-8", "surrogateescape")
    )
    names = "; ".join(f"{path!r}: {cause}" for path, cause in left_out[:10])
    message = f"{len(left_out)} images cannot be decoded ({root / BROKEN} lists all): {names}"
    if not skip_broken:
        raise BrokenImagesError(f"{message}. Replace them, or leave them out with --skip-broken")
    logger.warning("%s; left out", message)


def _finish(source: ImageFolder, root: Path, plan: Plan, records: list[dict[str, Any]], left_out: list[str]) -> int:
    """Write the index and the header."""
    rows = [
        (offset, number, height, width, source.label(index), crc32)
        for number, record in enumerate(records)
        for index, offset, height, width, crc32 in record["images"]
    ]
    if not rows:
        raise ValueError(f"none of the {plan.num_source_images} images below {source.root!r} can be decoded")
    index = io.BytesIO()
    np.save(index, np.array(rows, dtype=ROW))
    names = [source.relative_path(image[0]) for record in records for image in record["images"]]
    files = {IMAGES: index.getvalue(), PATHS: b"".join(os.fsencode(name) + b"\0" for name in names)}
    for name, data in files.items():
        write_atomically(root / name, data)
    if not left_out:
        (root / BROKEN).unlink(missing_ok=True)  # of a run before the files were replaced
    header = {
        "image_size": plan.image_size,
        "num_images": len(rows),
        "source": os.path.abspath(source.root),
        "classes": source.classes,
        "left_out": left_out,
        "file_bytes": [record["num_bytes"] for record in records],
        "checksums": {name: sha256(data) for name, data in files.items()},
        "plan": plan._asdict(),
    }
    cache_format.write_header(root, header)
    shutil.rmtree(root / BUILDING)
    return len(rows)
