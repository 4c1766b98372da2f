"""Shards of tokens back to pictures: resumable, shared by ranks.

detokenized.json beside them says which tokens, tokenizer and precision made them.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from open_magvit2.common.arguments import integer
from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.files import sha256, with_ending, write_atomically
from open_magvit2.common.images import to_uint8
from open_magvit2.common.precision import Precision, inference
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.protocols import Tokenizer
from open_magvit2.tokens.overlap import in_threads, to_host

RECORD = "detokenized.json"
# Two fifths of the time of Pillow's default, 6, for pictures a hundredth to a tenth larger (docs/performance.md).
_COMPRESS_LEVEL = 1


def detokenize(
    tokenizer: Tokenizer,
    shards: TokenShards,
    folder: Path,
    device: torch.device,
    batch_size: int = 32,
    precision: Precision = "fp32",
    num_workers: int = 0,
    progress: bool = True,
) -> int:
    """Write the reconstruction of every image as <its path>.png; a collective call under DDP, files there are kept.

    Where there are several views of an image, they are <its path>.<view>.png. (See `with_ending` for very long names.)

    Args:
        tokenizer: on `device`; of the checkpoint that made the tokens.
        shards: the tokens.
        folder: to write into.
        device: to compute on.
        batch_size: images at once on each rank.
        precision: of the decoder.
        num_workers: threads of each rank that write pictures while the device decodes the next; 0 takes turns.
        progress: draw a progress bar on rank 0.

    Returns:
        number of images written now, over all ranks.

    Raises:
        ValueError: for a tokenizer with another codebook or token shape, tokens of clips, a path that leads out of the
            folder, a negative num_workers, or a folder with pictures made otherwise, by what differs.
        OSError: if a picture cannot be written, naming it.
    """
    index = shards.index
    integer(0, num_workers=num_workers)
    integer(1, batch_size=batch_size)
    _check_tokenizer(tokenizer, shards)
    outside = [path for path in shards.paths if Path(path).is_absolute() or ".." in Path(path).parts]
    if outside:
        raise ValueError(f"{len(outside)} paths lead out of the folder, e.g. {outside[0]!r}")
    endings = [".png"] if index.views == 1 else [f".{view}.png" for view in range(index.views)]
    files = [with_ending(folder / path, ending) for path in shards.paths for ending in endings]
    _begin(folder, files, shards, precision)
    first = {file: item for item, file in reversed(list(enumerate(files)))}  # a list may name an image twice
    todo = sorted(item for file, item in first.items() if not file.is_file())
    todo = all_gather_object(todo)[0][rank() :: world_size()]
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    bar = progress_bar(desc="detokenize", unit="image", total=len(todo), disable=not progress or rank() > 0)
    # Pictures of two batches may wait to be written: enough to keep the device busy.
    with bar, inference(device, precision), in_threads(num_workers, 2 * batch_size) as call:
        pictures = to_host(to_uint8(tokenizer.detokenize(shards.read(batch)[0].to(device))) for batch in batches)
        for items, pixels in zip(batches, pictures, strict=True):
            for item, image in zip(items, pixels, strict=True):
                call(_write, files[item], image)
            bar.update(len(items))
    return sum(all_gather_object(len(todo)))


def _check_tokenizer(tokenizer: Tokenizer, shards: TokenShards) -> None:
    index = shards.index
    if index.modality != "image":
        raise ValueError(f"{shards.folder} holds tokens of clips, which cannot be written as PNG files")
    if tokenizer.codebook_size != index.codebook_size:
        raise ValueError(
            f"tokens of a codebook of {index.codebook_size} codes, a tokenizer of {tokenizer.codebook_size}"
        )
    expected = tuple(tokenizer.token_shape(index.image_size))
    if expected != index.token_shape:
        raise ValueError(
            f"tokens of shape {index.token_shape}, a tokenizer of {expected} for images {index.image_size}"
        )


def _begin(folder: Path, files: Sequence[Path], shards: TokenShards, precision: Precision) -> None:
    """Write down what makes the pictures, or check that an earlier run made them in the same way."""
    index, path = shards.index, folder / RECORD
    expected = {
        "checkpoint_sha256": index.checkpoint_sha256,
        "weights": index.weights,
        "precision": precision,
        "tokens_sha256": sha256(repr([index.paths_sha256, index.views, sorted(index.shards.items())]).encode()),
    }
    if rank() == 0 and not path.is_file():
        if there := [file for file in files if file.is_file()]:
            raise ValueError(f"{there[0]} is there and no {RECORD} says what made it: choose another folder")
        write_atomically(path, json.dumps(expected, indent=1) + "\n")
    all_gather_object(None)  # the others wait until it is there
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name, value in expected.items() if found[name] != value]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): choose another folder") from error
    if different:
        texts = [f"{name}: {found[name]} here, {expected[name]} requested" for name in different]
        raise ValueError(
            f"{folder} holds pictures made otherwise ({'; '.join(texts)}): continue with the settings they were made "
            "with, or choose another folder"
        )


def _write(file: Path, pixels: Tensor) -> None:
    """Pixels uint8 [3, H, W] as a PNG file, whole or not there."""
    content = io.BytesIO()
    try:
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, format="PNG", compress_level=_COMPRESS_LEVEL)
        write_atomically(file, content.getvalue())
    except (OSError, ValueError) as error:
        raise OSError(f"cannot write {file}: {error}; correct that and run the same command again") from error
