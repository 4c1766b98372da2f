"""Images to shards of tokens: resumable, shared by ranks, and the same bytes however often it was interrupted."""

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.files import sha256_of
from open_magvit2.common.images import to_float
from open_magvit2.protocols import Sample, Tokenizer
from open_magvit2.tokens import index as indices
from open_magvit2.tokens.index import Index
from open_magvit2.tokens.inference import inference
from open_magvit2.tokens.overlap import to_host


def make_index(
    tokenizer: Tokenizer,
    paths: Sequence[str],
    image_size: int,
    checkpoint: Path,
    weights: str = "ema",
    precision: str = "fp32",
    shard_size: int = 10_000,
) -> Index:
    """The index of the tokens that are to be made.

    Args:
        tokenizer: one index a `downsampling` x `downsampling` block of pixels.
        paths: of the images, in order.
        image_size: side of the images.
        checkpoint: the tokenizer's file.
        weights, precision, shard_size: see `Index`.

    Raises:
        ValueError: if the tokenizer does not take images of that size, or its indices do not fit int32.
    """
    side, rest = divmod(image_size, tokenizer.downsampling)
    if rest or side == 0:
        raise ValueError(f"image_size must be a multiple of {tokenizer.downsampling}, got {image_size}")
    if tokenizer.codebook_size > 2**31:
        raise ValueError(f"tokens are stored as int32, a codebook of {tokenizer.codebook_size} codes needs more")
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    return Index(
        num_images=len(paths),
        grid=(side, side),
        codebook_size=tokenizer.codebook_size,
        image_size=image_size,
        checkpoint_sha256=sha256_of(checkpoint),
        weights=weights,
        precision=precision,
        paths_sha256=indices.sha256(indices.paths_text(paths)),
        shard_size=shard_size,
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
    """Write the tokens of a dataset; a collective call under DDP. Shards that are there already are not made again.

    A batch never reaches into the next shard, so that a shard's bytes depend neither on the number of ranks nor on
    where an earlier run was interrupted.

    Args:
        tokenizer: on `device`, in evaluation mode.
        dataset: Samples; image uint8 [3, image_size, image_size].
        paths: of its images, as in the index.
        index: from `make_index`.
        folder: to write into, on a file system that all ranks share.
        device: to compute on.
        batch_size: images at once on each rank.
        num_workers: loading processes of each rank.
        progress: draw a progress bar on rank 0.

    Returns:
        number of images tokenized now, over all ranks.

    Raises:
        ValueError: if the folder holds tokens made otherwise: what differs is named.
    """
    _begin(folder, index, paths)
    todo = [shard for shard, name in enumerate(index.shard_names) if not (folder / name).is_file()]
    # All ranks must have looked before the first of them writes.
    todo = all_gather_object(todo)[0][rank() :: world_size()]
    batches = [batch for shard in todo for batch in _batches(index.positions(shard), batch_size)]
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, pin_memory=device.type == "cuda")
    done = 0
    bar = tqdm(desc="tokenize", unit="image", total=sum(map(len, batches)), disable=not progress or rank() > 0)
    with bar, inference(device, index.precision):
        images = (batch["image"].to(device, non_blocking=True) for batch in loader)
        remaining = to_host(tokenizer.tokenize(to_float(image)).to(torch.int32) for image in images)
        for shard in todo:
            positions = index.positions(shard)
            tokens = torch.empty((len(positions), *index.grid), dtype=torch.int32)
            written = 0
            for found in itertools.islice(remaining, len(_batches(positions, batch_size))):
                tokens[written : written + len(found)] = found
                written += len(found)
                bar.update(len(found))
            content = io.BytesIO()
            np.save(content, tokens.numpy())
            indices.write_atomically(folder / index.shard_names[shard], content.getvalue())
            done += written
    total = sum(all_gather_object(done))
    if rank() == 0:
        indices.write(folder, index.completed({name: sha256_of(folder / name) for name in index.shard_names}))
    return total


def _begin(folder: Path, index: Index, paths: Sequence[str]) -> None:
    """Write what is known before the first token, or check that an interrupted run set out to do the same."""
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in itertools.chain(*(folder.glob(f".{kind}.*") for kind in ("tokens-*", "index*", "paths*"))):
            unfinished.unlink()
        if not (folder / indices.FILE).exists():
            indices.write_atomically(folder / indices.PATHS, indices.paths_text(paths))
            indices.write(folder, index)
    all_gather_object(None)  # the others wait until it is there
    differences = indices.read(folder).differences(index)
    if differences:
        raise ValueError(
            f"{folder} holds tokens made otherwise ({'; '.join(differences)}): continue with what they were made "
            "with, or choose another folder"
        )


def _batches(positions: range, batch_size: int) -> list[list[int]]:
    return [list(positions[start : start + batch_size]) for start in range(0, len(positions), batch_size)]
