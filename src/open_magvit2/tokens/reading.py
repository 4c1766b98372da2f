"""Shards of tokens, memory-mapped, as a dataset that checks what it reads; and from tokens back to images."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.files import sha256_of
from open_magvit2.common.images import to_uint8
from open_magvit2.common.precision import Precision
from open_magvit2.protocols import Tokenizer
from open_magvit2.tokens import index as indices
from open_magvit2.tokens.inference import inference
from open_magvit2.tokens.overlap import in_threads, to_host

# Two fifths of the time of Pillow's default, 6, for pictures a hundredth to a tenth larger (docs/performance.md).
_COMPRESS_LEVEL = 1


class TokenShards(Dataset[Tensor]):
    """The tokens in a folder that `writing.tokenize` has filled; opening reads none of them.

    Args:
        folder: with index.json.
        verify: compare the SHA-256 of every shard as well, which reads all of them.

    Attributes:
        index: see `Index`.
        paths: of the images, relative to the folder they came from.

    Raises:
        FileNotFoundError: if the index or a shard is missing.
        ValueError: if the folder is incomplete, or a file is not what the index says.
    """

    def __init__(self, folder: str | Path, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.index = indices.read(self.folder)
        if not self.index.complete:
            raise ValueError(f"the tokens in {folder} are not complete: run the same command again to finish them")
        listed = (self.folder / indices.PATHS).read_bytes()
        if indices.sha256(listed) != self.index.paths_sha256:
            raise ValueError(f"{self.folder / indices.PATHS} is not the list the tokens were made from")
        self.paths = listed.decode("utf-8", errors="surrogateescape").split("\n")[:-1]
        self._shards = [self._open(shard) for shard in range(len(self.index.shard_names))]
        if verify:
            for name, expected in self.index.shards.items():
                if (got := sha256_of(self.folder / name)) != expected:
                    raise ValueError(f"{self.folder / name} is damaged: its SHA-256 is {got}, expected {expected}")

    def __len__(self) -> int:
        return self.index.num_images

    def __getitem__(self, position: int) -> Tensor:
        """Tokens int64 [h, w] of one image."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} is outside [0, {len(self)})")
        return self.read([position])[0]

    def read(self, positions: Sequence[int]) -> Tensor:
        """Tokens int64 [N, h, w] of some images.

        Raises:
            ValueError: if a token lies outside the codebook.
        """
        shard_size = self.index.shard_size
        rows = [self._shards[position // shard_size][position % shard_size] for position in positions]
        tokens = torch.from_numpy(np.stack(rows).astype(np.int64))
        if tokens.min() < 0 or tokens.max() >= self.index.codebook_size:
            raise ValueError(
                f"tokens from {tokens.min()} to {tokens.max()} in {self.folder}, images {positions[0]} to "
                f"{positions[-1]}: expected [0, {self.index.codebook_size}); the shard is damaged"
            )
        return tokens

    def check_made_by(self, checkpoint: Path, weights: str) -> None:
        """Refuse to decode with other weights than the tokens were made with.

        Raises:
            ValueError: if the file has another SHA-256, or others of its weights were used.
        """
        made_by, got = (self.index.checkpoint_sha256, self.index.weights), (sha256_of(checkpoint), weights)
        if made_by != got:
            raise ValueError(
                f"the tokens in {self.folder} are of the {made_by[1]} weights of a checkpoint of SHA-256 {made_by[0]}; "
                f"got the {got[1]} weights of {checkpoint}, {got[0]}"
            )

    def _open(self, shard: int) -> np.ndarray:
        path = self.folder / self.index.shard_names[shard]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run the same command again to make it")
        expected = (len(self.index.positions(shard)), *self.index.grid)
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if tokens.shape != expected or tokens.dtype != np.int32:
            raise ValueError(f"{path} holds {tokens.dtype} {tokens.shape}, expected int32 {expected}")
        return tokens


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
        ValueError: if the tokenizer has another codebook, a path leads out of the folder, or num_workers is negative.
        OSError: if a picture cannot be written, naming it.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    if tokenizer.codebook_size != shards.index.codebook_size:
        raise ValueError(
            f"tokens of a codebook of {shards.index.codebook_size} codes, a tokenizer of {tokenizer.codebook_size}"
        )
    files = [folder / f"{path}.png" for path in shards.paths]
    outside = [path for path in shards.paths if Path(path).is_absolute() or ".." in Path(path).parts]
    if outside:
        raise ValueError(f"{len(outside)} paths lead out of the folder, e.g. {outside[0]!r}")
    first = {file: position for position, file in reversed(list(enumerate(files)))}  # a list may name an image twice
    todo = sorted(position for file, position in first.items() if not file.is_file())
    todo = all_gather_object(todo)[0][rank() :: world_size()]
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    bar = tqdm(desc="detokenize", unit="image", total=len(todo), disable=not progress or rank() > 0)
    # Pictures of two batches may wait to be written: enough for the device not to.
    with bar, inference(device, precision), in_threads(num_workers, 2 * batch_size) as call:
        pictures = to_host(to_uint8(tokenizer.detokenize(shards.read(batch).to(device))) for batch in batches)
        for positions, pixels in zip(batches, pictures, strict=True):
            for position, image in zip(positions, pixels, strict=True):
                call(_write, files[position], image)
            bar.update(len(positions))
    return sum(all_gather_object(len(todo)))


def _write(file: Path, pixels: Tensor) -> None:
    """Pixels uint8 [3, H, W] as a PNG, which is whole or not there at all."""
    content = io.BytesIO()
    try:
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, format="PNG", compress_level=_COMPRESS_LEVEL)
        file.parent.mkdir(parents=True, exist_ok=True)
        indices.write_atomically(file, content.getvalue())
    except (OSError, ValueError) as error:
        raise OSError(f"cannot write {file}: {error}; mend that and run the same command again") from error
