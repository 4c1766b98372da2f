"""Writes the images of a folder into WebDataset shards; a killed run continues where it was.

Each shard appears whole, and its record after it. The bytes of the shards depend on the folder, the seed and the images
per shard only, not on the number of workers or on how often the writing was interrupted.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from open_magvit2.common.arguments import integer
from open_magvit2.common.extras import extra
from open_magvit2.common.files import atomic_writer, claim, open_regular, sha256_of, write_atomically
from open_magvit2.data.decoding import UnreadableImageError, opened
from open_magvit2.data.image_files import SUFFIXES, write_list
from open_magvit2.data.isolation import Failure, map_isolated
from open_magvit2.data.order import random_stream
from open_magvit2.data.sources.cache_building import BROKEN, BrokenImagesError
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.shard_files import INDEX, index_of, read_index

logger = logging.getLogger(__name__)

BUILDING, PLAN = "building", "plan.json"
_NO_LIMIT = 1e6  # seconds
Progress = Callable[[int], Any]  # told the number of images that were done since it was last called


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
            _refuse_other_plan(root, index.get("made_from", {}), plan)
            shutil.rmtree(root / BUILDING, ignore_errors=True)
            progress(len(source))
            return sum(shard["nsamples"] for shard in index["shardlist"])
        parts = [order[start : start + images_per_shard] for start in range(0, len(source), images_per_shard)]
        records = _continue(root, plan, skip_broken)
        progress(sum(len(parts[number]) for number in records))

        def write(number: int) -> dict[str, Any]:
            return _write_shard(source, root, number, parts[number], skip_broken)

        missing = [number for number in range(len(parts)) if number not in records]
        for number, record in map_isolated(write, missing, num_workers, _NO_LIMIT):
            if isinstance(record, Failure):
                raise OSError(f"shard {number} could not be written: {record.cause}")
            records[number] = record
            progress(len(parts[number]))
        return _finish(root, plan, [records[number] for number in range(len(parts))], skip_broken)


def shard_file(number: int) -> str:
    """Name of a shard."""
    return f"{number:05}.tar"


def _write_shard(source: ImageFolder, root: Path, number: int, images: np.ndarray, skip_broken: bool) -> dict[str, Any]:
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
    record = {"nsamples": len(images) - len(left_out), "filesize": path.stat().st_size, "sha256": sha256_of(path)}
    record = {"url": path.name, **record, "left_out": left_out}
    if skip_broken or not left_out:
        write_atomically(root / BUILDING / f"{number:05}.json", json.dumps(record))
    else:
        path.unlink()
    return record


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


def _continue(root: Path, plan: dict[str, Any], skip_broken: bool) -> dict[int, dict[str, Any]]:
    """Records of the shards an interrupted run has finished, after removing what it has not."""
    building = root / BUILDING
    if (building / PLAN).exists():
        _refuse_other_plan(root, json.loads((building / PLAN).read_bytes()), plan)
    elif strangers := sorted(path.name for path in root.iterdir() if path.name not in (".lock", BUILDING)):
        raise ValueError(f"{str(root)!r} holds other files ({', '.join(strangers[:3])}); expected an empty folder")
    building.mkdir(exist_ok=True)
    for partial in [*root.glob(".*.partial"), *building.glob(".*.partial")]:
        partial.unlink()
    write_atomically(building / PLAN, json.dumps(plan))
    records = {}
    for path in sorted(building.glob("[0-9]*.json")):
        record, shard = json.loads(path.read_bytes()), root / shard_file(int(path.stem))
        is_whole = shard.is_file() and shard.stat().st_size == record["filesize"]
        if is_whole and (skip_broken or not record["left_out"]):
            records[int(path.stem)] = record
    return records


def _refuse_other_plan(root: Path, found: dict[str, Any], plan: dict[str, Any]) -> None:
    different = [f"{key} {found.get(key)}, expected {plan[key]}" for key in plan if found.get(key) != plan[key]]
    if different:
        raise ValueError(
            f"{str(root)!r} holds shards that were begun with {'; '.join(different)}. Give another folder, or delete "
            "this one; names and sizes change when files of the source change"
        )


def _finish(root: Path, plan: dict[str, Any], records: list[dict[str, Any]], skip_broken: bool) -> int:
    """Write the index, or refuse broken images."""
    left_out = dict(entry for record in records for entry in record["left_out"])
    if left_out:
        write_list(root / BROKEN, left_out)
        names = "; ".join(f"{path!r}: {cause}" for path, cause in list(left_out.items())[:10])
        message = f"{len(left_out)} images cannot be decoded ({root / BROKEN} lists all): {names}"
        if not skip_broken:
            raise BrokenImagesError(f"{message}. Replace them, or leave them out with --skip-broken")
        logger.warning("%s; left out", message)
    else:
        (root / BROKEN).unlink(missing_ok=True)  # of a run before the files were replaced
    shards = [{key: value for key, value in record.items() if key != "left_out"} for record in records]
    write_atomically(root / INDEX, index_of(shards, made_from=plan))
    shutil.rmtree(root / BUILDING)
    return sum(shard["nsamples"] for shard in shards)
