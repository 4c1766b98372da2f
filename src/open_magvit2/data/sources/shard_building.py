"""Writes the images of a folder into WebDataset shards; a killed run continues where it was.

Each shard appears whole, and its record after it. The bytes of the shards depend on the folder, the seed and the images
per shard only, not on the number of workers or on how often the writing was interrupted.
"""

import os
import shutil
from pathlib import Path

import numpy as np

from open_magvit2.common.arguments import integer
from open_magvit2.common.extras import extra
from open_magvit2.common.files import atomic_writer, claim, open_regular, sha256_of, write_atomically
from open_magvit2.data.decoding import UnreadableImageError, opened
from open_magvit2.data.image_files import SUFFIXES
from open_magvit2.data.order import random_stream
from open_magvit2.data.sources import building
from open_magvit2.data.sources.building import Progress, Record
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.shard_files import INDEX, index_of, read_index


def build(
    source: ImageFolder,
    root: Path,
    images_per_shard: int = 1000,
    seed: int = 0,
    skip_broken: bool = False,
    num_workers: int = 1,
    progress: Progress = lambda _: None,
) -> int:
    """Write 00000.tar, 00001.tar, ... and their index, or what an interrupted run left to write of them.

    A sample is the unchanged bytes of the image's file, its label in ".cls" where there are classes, and as its key the
    image's number in the sorted folder. Every image is decoded once, to find broken ones.

    Args:
        source: the images.
        root: folder to write to; made if it is not there.
        images_per_shard: what a killed run loses at most, for each worker.
        seed: of the order of the images, which is random: training reads shards from front to back.
        skip_broken: leave out images that cannot be decoded; `broken.txt` lists them.
        num_workers: processes.
        progress: called after every shard.

    Returns:
        number of images in the shards.

    Raises:
        BrokenImagesError: if images cannot be decoded and `skip_broken` is not set. All other shards are written by
            then; `broken.txt` lists the images, and is a list for `ImageFolder(exclude=...)`.
        ValueError: if the folder holds something else, or another process writes it.
        OSError: if a worker fails.
    """
    integer(1, images_per_shard=images_per_shard, num_workers=num_workers)
    integer(0, seed=seed)
    extra("webdataset", "data")
    order = random_stream("shards", seed).permutation(len(source))
    plan = {"images": len(source), **source.identity(), "images_per_shard": images_per_shard, "seed": seed}
    with claim(root, "wait for it or stop it"):
        if (root / INDEX).exists():
            index = read_index(str(root / INDEX))
            building.refuse_other_plan(root, index.get("made_from", {}), plan)
            shutil.rmtree(root / building.BUILDING, ignore_errors=True)
            progress(len(source))
            return sum(shard["nsamples"] for shard in index["shardlist"])
        parts = [order[start : start + images_per_shard] for start in range(0, len(source), images_per_shard)]
        records = building.finished_before(root, plan, shard_file, skip_broken)
        building.write_plan(root, plan)
        progress(sum(len(parts[number]) for number in records))

        def write(number: int) -> Record:
            return _write_shard(source, root, number, parts[number], skip_broken)

        missing = [number for number in range(len(parts)) if number not in records]
        for number, record in building.in_processes(write, missing, num_workers):
            records[number] = record
            progress(len(parts[number]))
        ordered = [records[number] for number in range(len(parts))]
        building.check_broken(root, ordered, skip_broken)
        shards = [
            {**{name: record[name] for name in ("url", "nsamples", "sha256")}, "filesize": record["num_bytes"]}
            for record in ordered
        ]
        write_atomically(root / INDEX, index_of(shards, made_from=plan))
        shutil.rmtree(root / building.BUILDING)
        return sum(shard["nsamples"] for shard in shards)


def shard_file(number: int) -> str:
    """Name of a shard."""
    return f"{number:05}.tar"


def _write_shard(source: ImageFolder, root: Path, number: int, images: np.ndarray, skip_broken: bool) -> Record:
    """Write a shard and its record, but not where images are broken that may not be left out."""
    path, left_out = root / shard_file(number), []
    with (
        atomic_writer(path) as file,
        # unchanged bytes, and nothing of the day or the user in the headers
        extra("webdataset", "data").TarWriter(file, encoder=False, mtime=0.0) as archive,
    ):
        for index in map(int, images):
            try:
                sample = _sample(source, index)
            except UnreadableImageError as error:
                left_out.append((source.relative_path(index), error.cause))
                continue
            archive.write({"__key__": f"{index:08}", **sample})
    record = {"url": path.name, "nsamples": len(images) - len(left_out), "sha256": sha256_of(path)}
    return building.write_record(root, number, path, {**record, "left_out": left_out}, skip_broken)


def _sample(source: ImageFolder, index: int) -> dict[str, bytes]:
    """The files of a sample by their endings.

    Raises:
        UnreadableImageError: if the image cannot be decoded.
    """
    path = source.path(index)
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise UnreadableImageError(f"cannot read {path!r}: {error}", path, f"{error.strerror}") from error
    with opened(path, source.max_pixels, content) as image:
        ending = os.path.splitext(path)[1].lower()
        if ending not in SUFFIXES:
            ending = f".{(image.format or '').lower()}"
        image.load()
    label = source.label(index)
    return {ending[1:]: content, **({"cls": str(label).encode()} if label >= 0 else {})}
