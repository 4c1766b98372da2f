"""Many files from the images of a folder, in parallel: a killed run continues where it was (caches and shards).

Each file appears whole, and its record, a JSON file in `building`, after it: where the record is, the file is whole.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from open_magvit2.common.arguments import integer
from open_magvit2.common.files import PARTIAL, write_atomically
from open_magvit2.data.image_files import write_list
from open_magvit2.data.isolation import Failure, map_isolated

logger = logging.getLogger(__name__)

BUILDING, BROKEN = "building", "broken.txt"
_PLAN = "plan.json"
_NO_LIMIT = 1e6  # seconds
Record = dict[str, Any]  # of a file: "left_out" has (path, cause) of images, "num_bytes" is the file's size; and more
Progress = Callable[[int], Any]  # told the number of images that were done since it was last called
Result = TypeVar("Result")


class BrokenImagesError(ValueError):
    """Images of the source that cannot be decoded, so that the writing was not finished."""


def finished_before(
    root: Path, plan: Mapping[str, Any], file_name: Callable[[int], str], skip_broken: bool
) -> dict[int, Record]:
    """Records of the files an interrupted run has finished, by number, after removing what it has not.

    Args:
        root: folder of the files.
        plan: what decides their content, as JSON has it.
        file_name: of a number.
        skip_broken: whether files from which images were left out count.

    Raises:
        ValueError: if the folder holds something else, or was begun by another plan.
    """
    building = root / BUILDING
    if (building / _PLAN).exists():
        refuse_other_plan(root, json.loads((building / _PLAN).read_bytes()), plan)
    elif strangers := sorted(path.name for path in root.iterdir() if path.name not in (".lock", BUILDING)):
        raise ValueError(f"{str(root)!r} holds other files ({', '.join(strangers[:3])}); expected an empty folder")
    building.mkdir(exist_ok=True)
    for partial in [*root.glob(f".*{PARTIAL}"), *building.glob(f".*{PARTIAL}")]:
        partial.unlink()
    records = {}
    for path in sorted(building.glob("[0-9]*.json")):
        record, file = json.loads(path.read_bytes()), root / file_name(int(path.stem))
        is_whole = file.is_file() and file.stat().st_size == record["num_bytes"]
        if is_whole and (skip_broken or not record["left_out"]):
            records[int(path.stem)] = record
    return records


def write_plan(root: Path, plan: Mapping[str, Any]) -> None:
    """Say by which plan the files are written from now on."""
    write_atomically(root / BUILDING / _PLAN, json.dumps(plan))


def refuse_other_plan(root: Path, found: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Refuse a folder that was begun otherwise.

    Raises:
        ValueError: with every difference.
    """
    different = [f"{key} {found.get(key)}, expected {plan[key]}" for key in plan if found.get(key) != plan[key]]
    if different:
        raise ValueError(
            f"{str(root)!r} was begun with {'; '.join(different)}. Give another folder, or delete this one; "
            "fingerprint, names and sizes change when files of the source change"
        )


def write_record(root: Path, number: int, file: Path, record: Record, skip_broken: bool) -> Record:
    """Record a file that was written whole; remove it where images are broken that may not be left out."""
    record["num_bytes"] = file.stat().st_size
    if skip_broken or not record["left_out"]:
        write_atomically(root / BUILDING / f"{number:05}.json", json.dumps(record))
    else:
        file.unlink()
    return record


def in_processes(
    function: Callable[[int], Result], numbers: Sequence[int], num_workers: int
) -> Iterator[tuple[int, Result]]:
    """(number, function(number)), in any order; 0 workers work in this process.

    Raises:
        OSError: if a worker fails.
    """
    integer(0, num_workers=num_workers)
    if num_workers == 0:
        yield from ((number, function(number)) for number in numbers)
        return
    for number, result in map_isolated(function, numbers, num_workers, _NO_LIMIT):
        if isinstance(result, Failure):
            raise OSError(f"a process that writes file {number} failed: {result.cause}")
        yield number, result


def check_broken(root: Path, records: Sequence[Record], skip_broken: bool) -> list[str]:
    """The paths of the images that were left out; `broken.txt` lists them, for `ImageFolder(exclude=...)`.

    Raises:
        BrokenImagesError: if there are any and `skip_broken` is not set.
    """
    left_out = dict(entry for record in records for entry in record["left_out"])
    if not left_out:
        (root / BROKEN).unlink(missing_ok=True)  # of a run before the files were replaced
        return []
    write_list(root / BROKEN, left_out)
    names = "; ".join(f"{path!r}: {cause}" for path, cause in list(left_out.items())[:10])
    message = f"{len(left_out)} images cannot be decoded ({root / BROKEN} lists all): {names}"
    if not skip_broken:
        raise BrokenImagesError(f"{message}. Replace them, or leave them out with --skip-broken")
    logger.warning("%s; left out", message)
    return list(left_out)
