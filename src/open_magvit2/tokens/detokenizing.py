"""Shards of tokens back to pictures: resumable, shared by ranks."""

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from open_magvit2.common.arguments import integer
from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.files import with_ending, write_atomically
from open_magvit2.common.images import to_uint8
from open_magvit2.common.precision import Precision, inference
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.protocols import Tokenizer
from open_magvit2.tokens.overlap import in_threads, to_host

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
            folder, or a negative num_workers.
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


def _write(file: Path, pixels: Tensor) -> None:
    """Pixels uint8 [3, H, W] as a PNG file, whole or not there."""
    content = io.BytesIO()
    try:
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, format="PNG", compress_level=_COMPRESS_LEVEL)
        write_atomically(file, content.getvalue())
    except (OSError, ValueError) as error:
        raise OSError(f"cannot write {file}: {error}; correct that and run the same command again") from error
