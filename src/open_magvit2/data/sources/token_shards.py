"""Shards of tokens, memory-mapped, as a dataset that verifies what it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from open_magvit2.common import checkpoints
from open_magvit2.common.files import open_regular, sha256, sha256_of
from open_magvit2.data.image_files import unescaped
from open_magvit2.data.sources import token_index


class TokenSample(TypedDict):
    """One item, or a batch of them after collation."""

    tokens: Tensor  # int64 [*token_shape] in [0, codebook_size)
    label: int  # class index; -1 where the source has none
    path: str  # of the image, relative to the folder it came from
    index: int  # of the item


class TokenShards(Dataset[TokenSample]):
    """The tokens in a folder that scripts/tokenize_images.py has filled. Opening reads none of them.

    A shard's SHA-256 is compared when the shard is first read, once a process.

    Args:
        folder: with index.json.

    Attributes:
        index: see `token_index.Index`.
        paths: of the images.

    Raises:
        FileNotFoundError: if the index or a shard is missing.
        ValueError: if the folder is incomplete, or a file is not what the index says.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = token_index.read_index(self.folder)
        if not self.index.complete:
            raise ValueError(f"the tokens in {folder} are not complete: run the same command again to finish them")
        with open_regular(self.folder / token_index.PATHS) as file:
            listed = file.read()
        self.paths = [unescaped(line) for line in listed.decode("utf-8", errors="surrogateescape").split("\n")[:-1]]
        if sha256(listed) != self.index.paths_sha256 or len(self.paths) != self.index.num_images:
            raise ValueError(
                f"{self.folder / token_index.PATHS} with {len(self.paths)} paths is not the list of "
                f"{self.index.num_images} that the tokens were made from"
            )
        self._arrays: dict[str, np.ndarray] = {}
        for shard in range(self.index.num_shards):
            self._check_header(shard)

    def __len__(self) -> int:
        return self.index.num_items

    def __getitem__(self, item: int) -> TokenSample:
        tokens, labels = self.read([item])
        return TokenSample(
            tokens=tokens[0], label=int(labels[0]), path=self.paths[item // self.index.views], index=item
        )

    def read(self, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens int64 [N, *token_shape] and labels int64 [N] of some items.

        Raises:
            IndexError: for an item outside the folder.
            ValueError: if a shard is damaged, or a token lies outside the codebook.
        """
        if outside := [item for item in items if not 0 <= item < len(self)]:
            raise IndexError(f"item {outside[0]} is outside [0, {len(self)})")
        places = [divmod(item, self.index.shard_size) for item in items]
        rows = [self._array(token_index.tokens_file(shard))[row] for shard, row in places]
        tokens = torch.from_numpy(np.stack(rows).astype(np.int64))
        if tokens.min() < 0 or tokens.max() >= self.index.codebook_size:
            raise ValueError(
                f"tokens from {tokens.min()} to {tokens.max()} in {self.folder}, items {items[0]} to {items[-1]}: "
                f"expected [0, {self.index.codebook_size}); the shard is damaged"
            )
        if not self.index.has_labels:
            return tokens, torch.full((len(items),), -1)
        labels = [int(self._array(token_index.labels_file(shard))[row]) for shard, row in places]
        return tokens, torch.tensor(labels, dtype=torch.int64)

    def identity(self) -> dict[str, str]:
        """Identity that a continued training compares: the images' names, and checksums of all tokens and labels."""
        return {"names": self.index.paths_sha256, "tokens": sha256(repr(sorted(self.index.shards.items())).encode())}

    @property
    def class_numbers(self) -> dict[str, int]:
        """Class folder -> class; empty where the images do not lie in folders of one class each. Reads all labels.

        Raises:
            ValueError: if a file of labels is damaged.
        """
        numbers: dict[str, int] = {}
        if not self.index.has_labels:
            return numbers
        shards = range(self.index.num_shards)
        labels = np.concatenate([self._array(token_index.labels_file(shard)) for shard in shards])
        for path, label in zip(self.paths, labels[:: self.index.views].tolist(), strict=True):
            folder, _, name = path.partition("/")
            if not name or "/" in name or label < 0 or numbers.setdefault(folder, label) != label:
                return {}
        return numbers if len(set(numbers.values())) == len(numbers) else {}

    def verify(self) -> None:
        """Compare the SHA-256 of every file, which reads all of them.

        Raises:
            ValueError: naming the damaged file.
        """
        for name in self.index.file_names():
            self._array(name)

    def check_made_by(self, checkpoint: Path, weights: str) -> None:
        """Refuse to decode with other weights than the tokens were made with.

        Raises:
            ValueError: if the file has another SHA-256, or others of its weights were used.
        """
        made_by, got = (self.index.checkpoint_sha256, self.index.weights), (checkpoints.digest(checkpoint), weights)
        if made_by != got:
            raise ValueError(
                f"the tokens in {self.folder} were made by the {made_by[1]} weights of a checkpoint of SHA-256 "
                f"{made_by[0]}; got the {got[1]} weights of {checkpoint}, {got[0]}"
            )

    def _array(self, name: str) -> np.ndarray:
        """A file as a memory map, verified when it is first asked for."""
        if name not in self._arrays:
            path = self.folder / name
            if (found := sha256_of(path)) != self.index.shards[name]:
                raise ValueError(f"{path} is damaged: its SHA-256 is {found}, expected {self.index.shards[name]}")
            self._arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._arrays[name]

    def _check_header(self, shard: int) -> None:
        """Compare the sizes and types in the files' headers with the index."""
        number = len(self.index.items(shard))
        expected = {token_index.tokens_file(shard): ((number, *self.index.token_shape), np.int32)}
        if self.index.has_labels:
            expected[token_index.labels_file(shard)] = ((number,), np.int64)
        for name, (shape, dtype) in expected.items():
            path = self.folder / name
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: run the same command again to make it")
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError, OSError) as error:
                raise ValueError(f"{path} is damaged: {error}") from error
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{path} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
