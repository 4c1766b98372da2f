"""The index of a folder of tokens: what its shards hold and what made them.

index.json          the fields of `Index`; "complete" once all shards are there, with their checksums
paths.txt           one image a line, relative to the folder they came from, in the order of the tokens
tokens-00000.npy    int32 [n, *token_shape], memory-mapped by numpy; `shard_size` items each, the last one fewer
labels-00000.npy    int64 [n], the classes of the same items; -1 where the source has none

An item is one view of one image: item k is view k % views of image k // views.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from open_magvit2.common.arguments import integer
from open_magvit2.common.files import write_atomically
from open_magvit2.data.image_files import escaped

FILE, PATHS = "index.json", "paths.txt"
VERSION = 2
_CHOICES: dict[str, tuple[str | bool, ...]] = {
    "weights": ("ema", "raw"),
    "precision": ("fp32", "bf16"),
    "modality": ("image", "video"),
    "has_labels": (True, False),
    "complete": (True, False),
}
_LARGEST = 2**40  # items, and tokens of one item: beyond is a damaged number


@dataclass(frozen=True)
class Index:
    """The fields of index.json.

    Attributes:
        num_images: of the source.
        token_shape: of one item: (h, w), (N,), (t, h, w), or (h, w, L) with L indices a position.
        codebook_size: tokens are in [0, codebook_size).
        image_size: (H, W) of the images, (T, H, W) of clips, after resizing and cropping.
        checkpoint_sha256: of the tokenizer's file.
        weights: of the file, "ema" or "raw".
        precision: "fp32" or "bf16".
        paths_sha256: of paths.txt.
        shard_size: items in a shard.
        views: items of one image, e.g. ten crops.
        modality: "image" or "video".
        has_labels: whether there are label files; folders of version 1 have none.
        complete: whether all shards are there.
        shards: file name -> SHA-256, once complete.
        version: of this format.

    Raises:
        ValueError: for values out of range.
    """

    num_images: int
    token_shape: tuple[int, ...]
    codebook_size: int
    image_size: tuple[int, ...]
    checkpoint_sha256: str
    weights: str
    precision: str
    paths_sha256: str
    shard_size: int
    views: int = 1
    modality: str = "image"
    has_labels: bool = True
    complete: bool = False
    shards: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        for name in ("num_images", "codebook_size", "shard_size", "views", "token_shape", "image_size"):
            integer(1, **{name: getattr(self, name)})
        for name, expected in _CHOICES.items():
            if getattr(self, name) not in expected:
                raise ValueError(f"{name} must be one of {', '.join(map(str, expected))}, got {getattr(self, name)!r}")
        if len(self.image_size) != (2 if self.modality == "image" else 3):
            raise ValueError(f"image_size must be (H, W) of images or (T, H, W) of clips, got {self.image_size}")
        if self.codebook_size > 2**31:
            raise ValueError(f"tokens are stored as int32, a codebook of {self.codebook_size} codes needs more")
        if max(self.num_items, math.prod(self.token_shape)) > _LARGEST:
            raise ValueError(
                f"{self.num_items} items of {self.token_shape} tokens: expected at most {_LARGEST} of each"
            )

    @property
    def num_items(self) -> int:
        """Images times views."""
        return self.num_images * self.views

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_items // self.shard_size)

    def items(self, shard: int) -> range:
        """The items of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_items))

    @property
    def num_files(self) -> int:
        """Number of token and label files."""
        return self.num_shards * (2 if self.has_labels else 1)

    def file_names(self) -> list[str]:
        """Names of all token and label files."""
        kinds = (tokens_file, labels_file) if self.has_labels else (tokens_file,)
        return [name(shard) for name in kinds for shard in range(self.num_shards)]

    def completed(self, shards: dict[str, str]) -> "Index":
        """The index of a folder in which all shards are."""
        return replace(self, complete=True, shards=shards)

    def differences(self, other: "Index") -> list[str]:
        """The fields that decide what the tokens are and differ, in words."""
        made_from = [f.name for f in fields(self) if f.name not in ("complete", "shards")]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in made_from]
        return [f"{name}: {mine} here, {theirs} requested" for name, mine, theirs in pairs if mine != theirs]


def tokens_file(shard: int) -> str:
    return f"tokens-{shard:05d}.npy"


def labels_file(shard: int) -> str:
    return f"labels-{shard:05d}.npy"


def paths_text(paths: Sequence[str]) -> bytes:
    """The content of paths.txt; names with line breaks as `image_files.escaped` writes them."""
    return "".join(f"{escaped(path)}\n" for path in paths).encode("utf-8", errors="surrogateescape")


def write_index(folder: Path, index: Index) -> None:
    """Write index.json."""
    write_atomically(folder / FILE, json.dumps(asdict(index), indent=1) + "\n")


def read_index(folder: Path) -> Index:
    """Read and check index.json, of version 1 as well; ValueError or FileNotFoundError says what is wrong with it."""
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no tokens: there is no {FILE}; scripts/tokenize_images.py writes them")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version") not in (1, VERSION):
            raise ValueError(f"version {content.get('version')}, expected 1 or {VERSION}")
        if content["version"] == 1:
            content = _from_version_1(content)
        for name in ("token_shape", "image_size"):
            content[name] = tuple(content[name])
        index = Index(**content)
        if index.complete and (len(index.shards) != index.num_files or set(index.shards) != set(index.file_names())):
            raise ValueError(f"{len(index.shards)} checksums for {index.num_files} files")
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no index of tokens: {error}") from error
    return index


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Square images, one view, no labels."""
    content = dict(content)
    side, grid = content.pop("image_size"), content.pop("grid")
    weights = "ema" if content["weights"] == "averaged" else content["weights"]
    return {**content, "image_size": [side, side], "token_shape": grid, "weights": weights, "has_labels": False}
