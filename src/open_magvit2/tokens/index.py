"""The index of a folder of tokens: what its shards hold and what made them.

index.json         everything below; "complete" once all shards are there, with their checksums
paths.txt          one image a line, relative to the folder they came from, in the order of the tokens
tokens-00000.npy   int32 [n, h, w], memory-mapped by numpy; shard_size images each, the last one fewer
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

FILE, PATHS = "index.json", "paths.txt"
_VERSION = 1


@dataclass(frozen=True)
class Index:
    """See the fields of index.json.

    Attributes:
        num_images: tokens of so many images.
        grid: [h, w], tokens of one image.
        codebook_size: tokens are in [0, codebook_size).
        image_size: side of the images in pixels, after resizing the shorter side and cropping the centre.
        checkpoint_sha256: of the tokenizer's file.
        weights: of the file, "ema" or "raw".
        precision: "fp32" or "bf16".
        paths_sha256: of paths.txt.
        shard_size: images in a shard.
        complete: whether all shards are there.
        shards: file name -> SHA-256, once complete.
        version: of this format.
    """

    num_images: int
    grid: tuple[int, int]
    codebook_size: int
    image_size: int
    checkpoint_sha256: str
    weights: str
    precision: str
    paths_sha256: str
    shard_size: int
    complete: bool = False
    shards: dict[str, str] = field(default_factory=dict)
    version: int = _VERSION

    @property
    def shard_names(self) -> list[str]:
        """File names of all shards, in order."""
        return [f"tokens-{number:05d}.npy" for number in range(-(-self.num_images // self.shard_size))]

    def positions(self, shard: int) -> range:
        """The images of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_images))

    def completed(self, shards: dict[str, str]) -> "Index":
        """The index of a folder in which all shards are."""
        return replace(self, complete=True, shards=shards)

    def differences(self, other: "Index") -> list[str]:
        """The fields that decide what the tokens are and differ, in words."""
        made_from = [f.name for f in fields(self) if f.name not in ("complete", "shards")]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in made_from]
        return [f"{name}: {mine} here, {theirs} asked for" for name, mine, theirs in pairs if mine != theirs]


def paths_text(paths: Sequence[str]) -> bytes:
    """The content of paths.txt.

    Raises:
        ValueError: for a path with a line break.
    """
    broken = [path for path in paths if "\n" in path or "\r" in path]
    if broken:
        raise ValueError(
            f"paths may not hold line breaks, which {len(broken)} do, e.g. {broken[0]!r}: rename the files"
        )
    return "".join(f"{path}\n" for path in paths).encode("utf-8", errors="surrogateescape")


def sha256(content: bytes) -> str:
    """As 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """A file that is whole or not there at all, whenever the program is killed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write(folder: Path, index: Index) -> None:
    """Write index.json."""
    write_atomically(folder / FILE, (json.dumps(asdict(index), indent=1) + "\n").encode())


def read(folder: Path) -> Index:
    """Read index.json.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is of another version or lacks fields.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no tokens: there is no {FILE}; scripts/tokenize_images.py writes them")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version") != _VERSION:
            raise ValueError(f"{path} is of version {content.get('version')}, this code reads {_VERSION}")
        return Index(**{**content, "grid": tuple(content["grid"])})
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no index of tokens ({type(error).__name__}: {error})") from error
