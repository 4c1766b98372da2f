"""Many generated images to files, as evaluators read them: resumable, shared by ranks, every class equally often.

images/000000.png   one file an image, whole or not there: a run that was killed goes on with those that are missing
samples.npz         arr_0, uint8 [N, H, W, 3], and arr_1, the labels int64 [N]: the form of OpenAI's guided-diffusion
samples.json        what made them; "complete" once all of it is there

Images come in shuffled order of classes: the Inception Score is a mean over consecutive groups.
"""

import contextlib
import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_magvit2.common import environment
from open_magvit2.common.arguments import integer
from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.files import PARTIAL, claim, write_atomically
from open_magvit2.common.images import to_image
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.generators.arrays import are_whole_arrays, decodes, is_whole_png, write_arrays
from open_magvit2.generators.decoding import generate_images, image_seed, image_size
from open_magvit2.protocols import Generator, Tokenizer

logger = logging.getLogger(__name__)

IMAGES, ARRAYS, RECORD = "images", "samples.npz", "samples.json"
_COMPRESS_LEVEL = 1  # of PNG: a quarter of the time of Pillow's default for a tenth more bytes


@dataclass(frozen=True)
class Plan:
    """Which images are made. Image i has `labels()[i]` and `decoding.image_seed(seed, i)`.

    Attributes:
        num_images: a multiple of the number of classes.
        classes: their numbers; every one gets as many images.
        seed: of the order of the classes, and of every image.

    Raises:
        ValueError: for another number of images, no class or one twice.
    """

    num_images: int
    classes: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        integer(1, num_images=self.num_images)
        integer(0, seed=self.seed)
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"expected different classes, got {list(self.classes)}")
        if self.num_images % len(self.classes):
            raise ValueError(
                f"{self.num_images} images cannot hold {len(self.classes)} classes equally often: take a multiple of "
                f"{len(self.classes)}"
            )

    def labels(self) -> Tensor:
        """int64 [num_images]: every class equally often, shuffled by the seed."""
        each = np.repeat(np.asarray(self.classes, dtype=np.int64), self.num_images // len(self.classes))
        return torch.from_numpy(np.random.default_rng(self.seed).permutation(each))


def write_samples(
    generator: Generator,
    tokenizer: Tokenizer,
    settings: Any,
    plan: Plan,
    made_by: Mapping[str, Any],
    folder: Path,
    device: torch.device,
    batch_size: int = 50,
    num_workers: int = 4,
    progress: bool = True,
) -> int:
    """Write the images of a plan and join them; a collective call under DDP. Images that are there are kept.

    Damaged files are made again, with a warning. Once all are joined, the middle of a PNG file is no longer looked at.

    Args:
        generator, tokenizer: on `device`.
        settings: of the generator, a dataclass; None for its defaults.
        plan: which images.
        made_by: plain values that decide the pixels as well: checksums of files, weights, precision.
        folder: to write into, on a file system that all ranks share.
        device: to compute on.
        batch_size: images at once on each rank.
        num_workers: threads of each rank that write and read PNG files.
        progress: draw a progress bar on rank 0.

    Returns:
        number of images made now, over all ranks.

    Raises:
        ValueError: for a tokenizer that does not fit, a folder with images made otherwise, by what differs, or one that
            another process writes to.
    """
    integer(1, batch_size=batch_size, num_workers=num_workers)
    settings = generator.make_settings() if settings is None else settings
    height, width = image_size(generator, tokenizer)
    record = {
        **asdict(plan),
        "image_size": [height, width],
        "sampling": {"kind": type(settings).__name__, **asdict(settings)},
        **made_by,
    }
    record = json.loads(json.dumps(record))
    labels = plan.labels()

    def make(numbers: list[int]) -> Tensor:
        seeds = [image_seed(plan.seed, number) for number in numbers]
        return generate_images(generator, tokenizer, labels[numbers], seeds, settings, device).cpu()

    with claim(folder, "wait for it or end it") if rank() == 0 else contextlib.nullcontext():
        _begin(folder, record)
        files = [folder / IMAGES / f"{number:06d}.png" for number in range(plan.num_images)]
        is_joined, missing = False, []
        if rank() == 0:
            is_joined = _is_joined(folder, labels.numpy(), (height, width))
            missing = _not_whole(files, (height, width), is_joined, num_workers)
        missing = all_gather_object(missing)[0]
        begin = time.monotonic()
        _write_missing(make, files, missing, min(batch_size, plan.num_images), num_workers, progress)
        all_gather_object(None)
        seconds = time.monotonic() - begin
        if rank() == 0 and (missing or not is_joined):
            write_arrays(folder / ARRAYS, files, labels.numpy(), (height, width), num_workers, progress)
            speed = {"images_made_last": len(missing), "seconds_last": seconds, "processes": world_size()}
            _write_record(folder, record, complete=True, **speed)
        all_gather_object(None)
    return len(missing)


def _is_joined(folder: Path, labels: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether an earlier run joined all images, and its npz file is whole."""
    arrays = folder / ARRAYS
    is_whole = are_whole_arrays(arrays, labels, size)
    if arrays.exists() and not is_whole:
        logger.warning("%s is damaged: written again", arrays)
    return is_whole and _read(folder)["complete"]


def _not_whole(files: Sequence[Path], size: tuple[int, int], is_joined: bool, num_workers: int) -> list[int]:
    """The numbers of the images to be made: of files that are not there, or not whole."""
    with ThreadPoolExecutor(num_workers) as threads:
        are_whole = list(threads.map(lambda file: is_whole_png(file, size), files))
        if not (is_joined and all(are_whole)):  # then all are joined, for which each must decode
            are_whole = list(threads.map(lambda file, is_whole: is_whole and decodes(file), files, are_whole))
    numbers = [number for number, is_whole in enumerate(are_whole) if not is_whole]
    if damaged := [files[number] for number in numbers if files[number].exists()]:
        logger.warning("%d files are no whole images of %s, e.g. %s: made again", len(damaged), size, damaged[0])
    return numbers


def _write_missing(
    make: Callable[[list[int]], Tensor],
    files: Sequence[Path],
    missing: Sequence[int],
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> None:
    """Make this rank's share of the missing images, by their numbers, and write them while the next are made."""
    todo = missing[rank() :: world_size()]
    bar = progress_bar(desc="sample", unit="image", total=len(missing), disable=not progress or rank() > 0)
    with bar, ThreadPoolExecutor(num_workers) as threads:
        writing: list[Future[None]] = []
        for start in range(0, len(todo), batch_size):
            numbers = list(todo[start : start + batch_size])
            # Filled up: a batch of another size is rounded otherwise, and in 16 bits that shows.
            pixels = make(numbers + numbers[-1:] * (batch_size - len(numbers)))
            for future in writing:  # of the batch before: while this one was made, they were written
                future.result()
            writing = [threads.submit(_write_png, files[n], image) for n, image in zip(numbers, pixels, strict=False)]
            bar.update(min(len(numbers) * world_size(), len(missing) - bar.n))  # the other ranks are about as far
        for future in writing:
            future.result()


def _begin(folder: Path, record: dict[str, Any]) -> None:
    """Write what is known before the first image, or check that an interrupted run was doing the same."""
    if rank() == 0:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for unfinished in [*folder.glob(f".*{PARTIAL}"), *(folder / IMAGES).glob(f".*{PARTIAL}")]:
            unfinished.unlink()
        if not (folder / RECORD).is_file():
            if next((folder / IMAGES).iterdir(), None) is not None:
                raise ValueError(f"{folder / IMAGES} holds files and there is no {RECORD}: choose another folder")
            _write_record(folder, record, complete=False)
    all_gather_object(None)  # the others wait until it is there
    found = _read(folder)
    pairs = [(name, found.get(name), value) for name, value in record.items()]
    different = [f"{name}: {mine} here, {value} requested" for name, mine, value in pairs if mine != value]
    if different:
        raise ValueError(
            f"{folder} holds images made otherwise ({'; '.join(different)}): continue with the settings they were "
            "made with, or choose another folder"
        )


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / RECORD} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{folder / RECORD} is damaged: expected a dictionary")
    return content


def _write_record(folder: Path, record: Mapping[str, Any], complete: bool, **more: Any) -> None:
    program = {"versions": environment.versions(), "git": environment.git(), "command": environment.command()}
    content = {"complete": complete, **record, **more, "written_utc": environment.now(), **program}
    write_atomically(folder / RECORD, json.dumps(content, indent=1) + "\n")


def _write_png(file: Path, pixels: Tensor) -> None:
    """Pixels uint8 [3, H, W] as a PNG file, whole or not there."""
    content = io.BytesIO()
    to_image(pixels).save(content, format="PNG", compress_level=_COMPRESS_LEVEL)
    write_atomically(file, content.getvalue())
