"""Fetch the files of a table from the Hugging Face Hub into its cache; says beforehand what, how large, which licence.

Nothing is fetched unless the command line asks for it. A transfer that was cut short goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_magvit2.common import hub
from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.common.published_files import PublishedFile, find_published
from open_magvit2.evaluation.table_rows import Row

_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Wanted:
    """A file that a table names and the folder of checkpoints lacks."""

    name: str  # `checkpoint` of its rows
    file: str  # its name among the published files
    place: PublishedFile
    size: int | None  # in bytes, as the Hub tells it; None: not known

    def __str__(self) -> str:
        licence = f"licence {self.place.licence or 'not known'}"
        if not self.place.repository:
            return f"{self.name}: not on the Hub, {self.place.remark}; {licence}"
        size = "size not known" if self.size is None else f"{self.size / 1e6:,.1f} MB"
        where = "/".join(filter(None, [self.place.repository, self.place.file]))
        return f"{self.name}: {where}, {size}; {licence}"


def wanted(rows: Sequence[Row], checkpoints: str | Path) -> list[Wanted]:
    """The files that the rows name and the folder lacks, each once; asks the Hub for their sizes."""
    names = {row.checkpoint: row.file for row in rows if row.checkpoint and row.file}
    missing = {name: file for name, file in names.items() if not (Path(checkpoints) / name).exists()}
    places = {name: find_published(file) for name, file in missing.items()}
    return [Wanted(name, missing[name], place, _size(place)) for name, place in places.items() if place is not None]


def fetch(rows: Sequence[Row], checkpoints: str | Path, tell: Callable[[str], None]) -> dict[str, Path]:
    """Fetch what the rows name and the folder lacks.

    Args:
        rows: of `table_rows.load`.
        checkpoints: the folder of files that need not be fetched.
        tell: gets the list of all files before the first is fetched, and what went wrong with single ones.

    Returns:
        the files' places by the rows' `checkpoint`; those that could not be fetched are not among them.
    """
    files = wanted(rows, checkpoints)
    if not files:
        tell("no file is missing")
        return {}
    total = sum(file.size or 0 for file in files if file.place.repository)
    tell("\n".join([*map(str, files), f"{len(files)} files are missing; known sizes to fetch: {total / 1e6:,.1f} MB"]))
    fetched = {}
    for file in files:
        if not file.place.repository:
            continue
        try:
            fetched[file.name] = hub.local_path(file.file)
        except (OSError, ValueError) as error:  # the others are not touched by it
            tell(f"{file.name} was not fetched: {error}")
    return fetched


def fetch_once(rows: Sequence[Row], checkpoints: str | Path, tell: Callable[[str], None]) -> dict[str, Path]:
    """`fetch` on rank 0, with its result on all ranks; a collective call under DDP."""
    return all_gather_object(fetch(rows, checkpoints, tell) if rank() == 0 else {})[0]


def _size(place: PublishedFile) -> int | None:
    """Bytes of a file, or of a repository's file of weights; None if the Hub does not tell."""
    if place.num_bytes is not None or not place.repository:
        return place.num_bytes
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    for name in [place.file] if place.file else hub.WEIGHTS_FILES:
        try:
            address = hf_hub_url(place.repository, name, endpoint=constants.ENDPOINT)
            return get_hf_file_metadata(address, timeout=_TIMEOUT_SECONDS).size
        except Exception:  # no such file, or in as many ways as there are libraries before the network
            continue
    return None
