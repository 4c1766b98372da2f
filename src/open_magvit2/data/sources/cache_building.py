"""Writes a cache of resized images: sizes first, then file by file in parallel; a killed run continues where it was."""

import hashlib
import io
import os
import shutil
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from open_magvit2.common.arguments import integer
from open_magvit2.common.files import atomic_writer, claim, sha256, write_atomically
from open_magvit2.data.decoding import UnreadableImageError, opened
from open_magvit2.data.sources import building
from open_magvit2.data.sources.building import Progress, Record
from open_magvit2.data.sources.cached import HEADER, IMAGES, PATHS, ROW, pixel_file, read_header, write_header
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.transforms import Size, height_and_width, resize_to_cover, resized_size


class Plan(NamedTuple):
    """The plan of a cache; a run that was interrupted is continued only by one with the same plan."""

    image_size: int | list[int]
    images_per_file: int
    num_source_images: int
    num_bytes: int  # of all pixels, if no image is broken
    fingerprint: str  # of the source: paths, labels, files' sizes, images' sizes
    resizer: str

    @property
    def num_files(self) -> int:
        """Files of pixels."""
        return -(-self.num_source_images // self.images_per_file)

    def images(self, number: int) -> range:
        """The images of a file."""
        return range(number * self.images_per_file, min((number + 1) * self.images_per_file, self.num_source_images))


def make_plan(
    source: ImageFolder, image_size: Size, images_per_file: int, num_workers: int, progress: Progress = lambda _: None
) -> Plan:
    """Read the sizes of all images from their files' heads.

    Args:
        source: the images.
        image_size: of the shorter side after resizing, or (height, width) to be just covered.
        images_per_file: what a killed run loses at most, for each worker.
        num_workers: processes; 0 works in this one.
        progress: of the sizes that were read.
    """
    integer(1, images_per_file=images_per_file)
    height, width = height_and_width(image_size)
    plan = Plan(
        height if height == width else [height, width],
        images_per_file,
        len(source),
        num_bytes=0,
        fingerprint="",
        resizer=f"Pillow {PIL.__version__}, bilinear",
    )

    def sizes(number: int) -> list[tuple[int, int, int]]:
        return [_size(source, index) for index in plan.images(number)]

    found = {}
    for number, result in building.in_processes(sizes, range(plan.num_files), num_workers):
        found[number] = result
        progress(len(result))
    digest, num_bytes = hashlib.sha256(), 0
    for index, (file_size, *size) in enumerate(size for number in range(plan.num_files) for size in found[number]):
        line = (source.relative_path(index), source.label(index), file_size, *size)
        digest.update(repr(line).encode("utf-8", "surrogateescape") + b"\n")
        if all(size):
            num_bytes += 3 * int(np.prod(resized_size(*size, image_size)))
    return plan._replace(num_bytes=num_bytes, fingerprint=digest.hexdigest())


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
        source, num_workers: as for the plan.
        root: folder of the cache; made if it is not there.
        plan: made from the same source.
        skip_broken: leave images out that cannot be decoded; the header lists them.
        progress: called after every file; images of an interrupted run come first.

    Returns:
        number of images in the cache.

    Raises:
        BrokenImagesError: if images cannot be decoded and `skip_broken` is not set. All the others are written by then;
            `broken.txt` lists these, and is a list for `ImageFolder(exclude=...)`.
        ValueError: if the folder holds something else, another process writes it, or the disk is too small.
    """
    with claim(root, "wait for it or stop it"):
        if (root / HEADER).exists():
            header = read_header(root)
            building.refuse_other_plan(root, header["plan"], plan._asdict())
            shutil.rmtree(root / building.BUILDING, ignore_errors=True)
            progress(plan.num_source_images)
            return header["num_images"]
        records = building.finished_before(root, plan._asdict(), pixel_file, skip_broken)
        needed = plan.num_bytes - sum(record["num_bytes"] for record in records.values())
        if (free := shutil.disk_usage(root).free) < needed:
            raise ValueError(
                f"{str(root)!r} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB still to write"
            )
        building.write_plan(root, plan._asdict())
        for record in records.values():
            progress(len(record["images"]) + len(record["left_out"]))
        missing = [number for number in range(plan.num_files) if number not in records]

        def write(number: int) -> Record:
            return _write_file(source, root, plan, skip_broken, number)

        for number, record in building.in_processes(write, missing, num_workers):
            records[number] = record
            progress(len(record["images"]) + len(record["left_out"]))
        ordered = [records[number] for number in range(plan.num_files)]
        return _finish(source, root, plan, ordered, building.check_broken(root, ordered, skip_broken))


def _size(source: ImageFolder, index: int) -> tuple[int, int, int]:
    """(bytes, width, height); zeros where there is no such file or no image: it is named when it is decoded."""
    path = source.path(index)
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    try:
        with opened(path, source.max_pixels) as image:
            return size, *image.size
    except UnreadableImageError:
        return size, 0, 0


def _write_file(source: ImageFolder, root: Path, plan: Plan, skip_broken: bool, number: int) -> Record:
    """Write a file of pixels and its record, but not where images are broken that may not be left out."""
    images: list[tuple[int, ...]] = []
    left_out: list[tuple[str, str]] = []
    record = {"images": images, "left_out": left_out}
    path = root / pixel_file(number)
    with atomic_writer(path) as file:
        for index in plan.images(number):
            try:
                image = resize_to_cover(source.read(index).image, plan.image_size)
            except UnreadableImageError as error:
                left_out.append((source.relative_path(index), error.cause))
                continue
            planes = np.asarray(image).transpose(2, 0, 1).tobytes()
            images.append((index, file.tell(), image.height, image.width, zlib.crc32(planes)))
            file.write(planes)
    return building.write_record(root, number, path, record, skip_broken)


def _finish(source: ImageFolder, root: Path, plan: Plan, records: list[Record], left_out: list[str]) -> int:
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
    write_header(root, header)
    shutil.rmtree(root / building.BUILDING)
    return len(rows)
