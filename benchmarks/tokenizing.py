"""What scripts/tokenize_images.py does once it has started: image files to shards of tokens, and these to PNG files.

The clocks are the host's, whatever the device: seconds on the wall, and CPU seconds of this process and of those that
load for it. The same with a tokenizer that costs nothing shows what the host can keep up with.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Subset

from benchmarks import subjects
from benchmarks.data_loading import drawn
from benchmarks.machine import num_cores
from benchmarks.settings import Row, Settings
from benchmarks.timing import interleaved
from open_magvit2.common.images import to_float
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.data.transforms import ResizeCenterCrop
from open_magvit2.protocols import Tokenizer
from open_magvit2.tokens.detokenizing import detokenize
from open_magvit2.tokens.writing import make_index, tokenize

TITLE = TABLE = "Tokenizing, from files to files"

_MOST_WORKERS = 4  # what the command has by default
_WORKS = {"tokenize": "JPEGs to shards", "detokenize": "shards to PNGs"}


def measure(settings: Settings) -> Iterator[Row]:
    """A row for each model and direction, in float32: of photos, if there are any, else of images drawn by code."""
    for case in subjects.cases(settings):
        with tempfile.TemporaryDirectory() as folder:
            yield from _rows(case, settings, Path(folder))


class _Amount(NamedTuple):
    images: int
    batch: int
    workers: int


def _amount(settings: Settings) -> _Amount:
    """On a GPU enough for what workers take to start not to show; on a CPU none, the networks need its cores."""
    if settings.device.type != "cuda":
        return _Amount(16, 8, 0) if settings.full else _Amount(2, 1, 0)
    workers = min(_MOST_WORKERS, num_cores())
    return _Amount(1024, 32, workers) if settings.full else _Amount(64, 8, workers)


def _rows(case: subjects.Case, settings: Settings, folder: Path) -> list[Row]:
    number, batch, workers = _amount(settings)
    images = drawn(folder / "images", number) if settings.images is None else ImageFolder(settings.images)
    number = min(number, len(images))
    positions = [i * len(images) // number for i in range(number)]
    dataset = Subset(TransformedDataset(images, ResizeCenterCrop(case.image_size)), positions)
    paths = [images.relative_path(position) for position in positions]
    tokenizer = subjects.make_tokenizer(case, settings.device)
    (folder / "checkpoint").touch()  # the index wants a file to name; the weights are random
    index = make_index(tokenizer, paths, case.image_size, folder / "checkpoint")

    def to_shards(chosen: Tokenizer, output: Path) -> None:
        tokenize(chosen, dataset, paths, index, output, settings.device, batch, workers, progress=False)

    def to_files(chosen: Tokenizer, output: Path) -> None:
        detokenize(chosen, shards, output, settings.device, batch, num_workers=workers, progress=False)

    to_shards(tokenizer, folder / "tokens")
    shards = TokenShards(folder / "tokens")
    pictures = torch.stack([dataset[position]["image"] for position in range(min(batch, number))])
    free = subjects.FreeTokenizer(tokenizer, to_float(pictures.to(settings.device)))
    works = {"tokenize": to_shards, "detokenize": to_files}
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    functions = {}
    for name, work in works.items():
        for kind, chosen in (("", tokenizer), (" without networks", free)):
            run = partial(_into_new_folder, partial(work, chosen), folder)
            functions[name, kind] = partial(_clocked, run, seconds.setdefault((name, kind), []))
    interleaved(functions, torch.device("cpu"), settings.repeats)  # for its turns: the clocks are our own
    return [
        {
            "table": TABLE,
            "model": case.name,
            "work": _WORKS[name],
            "images": number,
            "batch": batch,
            "workers": workers,
            **{
                f"images / {clock} s{kind}": number / statistics.median(one[place] for one in seconds[name, kind][1:])
                for kind in ("", " without networks")
                for place, clock in enumerate(("CPU", "wall"))
            },
        }
        for name in works
    ]


def _into_new_folder(work: Callable[[Path], None], folder: Path) -> None:
    """What is there already would not be made again."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        work(Path(output))


def _clocked(run: Callable[[], None], seconds: list[tuple[float, float]]) -> None:
    """Append a call's seconds: CPU, and on the wall."""
    computed, begin = _cpu_seconds(), time.monotonic()
    run()
    seconds.append((_cpu_seconds() - computed, time.monotonic() - begin))


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
