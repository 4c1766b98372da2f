"""Images to shards of tokens: resumable, shared by ranks, and the same bytes however often it was interrupted."""

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from open_magvit2.common import checkpoints
from open_magvit2.common.arguments import integer
from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.files import PARTIAL, claim, sha256, sha256_of, write_atomically
from open_magvit2.common.images import to_float
from open_magvit2.common.outputs import check_form, check_indices
from open_magvit2.common.precision import inference
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.data.sources import token_index
from open_magvit2.data.sources.token_index import Index, labels_file, tokens_file
from open_magvit2.protocols import Sample, Tokenizer
from open_magvit2.tokens.overlap import to_host


def make_index(
    tokenizer: Tokenizer,
    paths: Sequence[str],
    image_size: int | Sequence[int],
    checkpoint: Path,
    weights: str = "ema",
    precision: str = "fp32",
    shard_size: int = 10_000,
    views: int = 1,
) -> Index:
    """The index of the tokens to be made.

    Args:
        tokenizer: its `token_shape` decides the shape of an item.
        paths: of the images, in order.
        image_size: side of square images, (H, W) of others, (T, H, W) of clips.
        checkpoint: the tokenizer's file.
        weights, precision, shard_size, views: see `Index`.

    Raises:
        ValueError: if the tokenizer does not take images of that size, its indices do not fit int32, or a number is out
            of range.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    return Index(
        num_images=len(paths),
        token_shape=tuple(tokenizer.token_shape(size)),
        codebook_size=tokenizer.codebook_size,
        image_size=size,
        checkpoint_sha256=checkpoints.digest(checkpoint),
        weights=weights,
        precision=precision,
        paths_sha256=sha256(token_index.paths_text(paths)),
        shard_size=shard_size,
        views=views,
        modality=tokenizer.modality,
    )


def tokenize(
    tokenizer: Tokenizer,
    dataset: Dataset[Sample],
    paths: Sequence[str],
    index: Index,
    folder: Path,
    device: torch.device,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
) -> int:
    """Write the tokens of a dataset; a collective call under DDP. Shards that are there already are kept.

    A batch never reaches into the next shard: a shard's bytes depend neither on the number of ranks nor on where an
    earlier run was interrupted.

    Args:
        tokenizer: on `device`, in evaluation mode.
        dataset: Samples in the order of the index's items; image uint8 [3, *image_size].
        paths: of its images, as in the index.
        index: from `make_index`.
        folder: to write into, on a file system that all ranks share.
        device: to compute on.
        batch_size: images at once on each rank.
        num_workers: loading processes of each rank.
        progress: draw a progress bar on rank 0.

    Returns:
        number of items tokenized now, over all ranks.

    Raises:
        ValueError: if the folder holds tokens made otherwise, by what differs, or if another process writes to it.
    """
    integer(0, num_workers=num_workers)
    integer(1, batch_size=batch_size)
    with claim(folder, "wait for it or end it") if rank() == 0 else contextlib.nullcontext():
        _begin(folder, index, paths)
        return _write(tokenizer, dataset, index, folder, device, batch_size, num_workers, progress)


def _write(
    tokenizer: Tokenizer,
    dataset: Dataset[Sample],
    index: Index,
    folder: Path,
    device: torch.device,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> int:
    """Write the shards that are not there; the number of their items, over all ranks."""
    todo = [
        shard
        for shard in range(index.num_shards)
        if not all((folder / name(shard)).is_file() for name in (labels_file, tokens_file))
    ]
    # All ranks must have looked before the first of them writes.
    todo = all_gather_object(todo)[0][rank() :: world_size()]
    batches = [batch for shard in todo for batch in _batches(index.items(shard), batch_size)]
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, pin_memory=device.type == "cuda")
    labels: list[Tensor] = []

    def results() -> Iterator[Tensor]:
        for batch in loader:
            labels.append(batch["label"].clone())  # the batch's memory may be shared with a worker
            image = to_float(batch["image"].to(device, non_blocking=True))
            indices = tokenizer.tokenize(image)
            check_form(indices, (len(image), *index.token_shape), type(tokenizer).__name__)
            yield indices

    done = 0
    bar = progress_bar(desc="tokenize", unit="image", total=sum(map(len, batches)), disable=not progress or rank() > 0)
    with bar, inference(device, index.precision):
        remaining = to_host(results())
        for shard in todo:
            items = index.items(shard)
            tokens = torch.empty((len(items), *index.token_shape), dtype=torch.int32)
            written = 0
            for found in itertools.islice(remaining, len(_batches(items, batch_size))):
                check_indices(found, found.shape, index.codebook_size, type(tokenizer).__name__)
                tokens[written : written + len(found)] = found
                written += len(found)
                bar.update(len(found))
            shard_labels = torch.cat([labels.pop(0) for _ in _batches(items, batch_size)])
            write_atomically(folder / labels_file(shard), _npy(shard_labels.to(torch.int64)))
            write_atomically(folder / tokens_file(shard), _npy(tokens))  # last: where it is, the labels are as well
            done += written
    total = sum(all_gather_object(done))
    if rank() == 0:
        _complete(folder, index)
    return total


def _complete(folder: Path, index: Index) -> None:
    """Write the checksums of all files; those that an earlier run wrote must still be right."""
    found = {name: sha256_of(folder / name) for name in index.file_names()}
    recorded = token_index.read_index(folder).shards
    damaged = [name for name, checksum in recorded.items() if found[name] != checksum]
    if damaged:
        raise ValueError(f"{folder / damaged[0]} is damaged: delete it and run the same command again")
    token_index.write_index(folder, index.completed(found))


def _npy(values: Tensor) -> bytes:
    content = io.BytesIO()
    np.save(content, values.numpy())
    return content.getvalue()


def _begin(folder: Path, index: Index, paths: Sequence[str]) -> None:
    """Write what is known before the first token, or check that an interrupted run was doing the same."""
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f".*{PARTIAL}"):
            unfinished.unlink()
        if not (folder / token_index.FILE).exists():
            write_atomically(folder / token_index.PATHS, token_index.paths_text(paths))
            token_index.write_index(folder, index)
    all_gather_object(None)  # the others wait until it is there
    differences = token_index.read_index(folder).differences(index)
    if differences:
        raise ValueError(
            f"{folder} holds tokens made otherwise ({'; '.join(differences)}): continue with the settings they were "
            "made with, or choose another folder"
        )


def _batches(items: range, batch_size: int) -> list[list[int]]:
    return [list(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
