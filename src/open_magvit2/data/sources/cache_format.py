"""The files of a cache of resized images: their names, the header, what is checked when one is opened.

A cache is a folder:
    cache.json          the header, written last: a cache without it is not finished
    images.npy          one row (`ROW`) an image, in the order of the source
    paths.bin           the images' paths relative to the source, each followed by a zero byte
    pixels-00000.bin    uint8 [3, height, width] of one image after the other, nothing between them; and so on
Planes of colours, not interleaved pixels: what a network is fed with, and four times faster to crop.

The bytes of a finished cache depend on the source, the image size and the images per file only, not on the number of
workers or on how often the writing was interrupted.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from open_magvit2.common.files import sha256, write_atomically

FORMAT = 1
HEADER, IMAGES, PATHS = "cache.json", "images.npy", "paths.bin"
ROW = np.dtype(
    [("offset", "<i8"), ("file", "<i4"), ("height", "<i4"), ("width", "<i4"), ("label", "<i4"), ("crc32", "<u4")]
)


class DamagedCacheError(ValueError):
    """A cache whose files are not what its header says; the message tells which, and what to do."""


def pixel_file(number: int) -> str:
    """Name of the file that holds the pixels of the source's images number * images_per_file and following."""
    return f"pixels-{number:05}.bin"


def write_header(root: Path, header: dict[str, Any]) -> None:
    """Finish a cache: write its header with a checksum of itself."""
    content = {"format": FORMAT, **header}
    write_atomically(root / HEADER, json.dumps({**content, "checksum": _checksum(content)}, indent=1).encode() + b"\n")


def read_header(root: Path) -> dict[str, Any]:
    """The header of a finished cache.

    Raises:
        FileNotFoundError: if there is no finished cache.
        DamagedCacheError: if the header is damaged or of another format.
    """
    path = root / HEADER
    if not path.is_file():
        state = "is not finished: run scripts/cache_dataset.py again, it continues" if root.is_dir() else "is not there"
        raise FileNotFoundError(f"no {HEADER} in {str(root)!r}: the cache {state}")
    try:
        header = json.loads(path.read_bytes())
        found = header.pop("checksum")
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(f"{str(path)!r} is no header: {type(error).__name__}: {error}") from error
    if header.get("format") != FORMAT:
        raise DamagedCacheError(
            f"{str(path)!r} has format {header.get('format')}, expected {FORMAT}: write the cache again"
        )
    if found != _checksum(header):
        raise _damaged(f"{str(path)!r} has checksum {found}, expected {_checksum(header)}")
    return header


def read_index(root: Path, header: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """The rows [num_images] and paths of a cache, after a check of their checksums and of all pixel files' sizes.

    Raises:
        DamagedCacheError: naming the file that is not what the header says.
    """
    for name, expected in header["checksums"].items():
        found = sha256((root / name).read_bytes()) if (root / name).is_file() else "no file"
        if found != expected:
            raise _damaged(f"{str(root / name)!r} has checksum {found}, expected {expected}")
    for number, expected in enumerate(header["file_bytes"]):
        path = root / pixel_file(number)
        found = path.stat().st_size if path.is_file() else "no"
        if found != expected:
            raise _damaged(f"{str(path)!r} has {found} bytes, expected {expected}")
    paths = (root / PATHS).read_bytes().split(b"\0")[:-1]
    return np.load(root / IMAGES), [os.fsdecode(path) for path in paths]


def _checksum(header: dict[str, Any]) -> str:
    return sha256(json.dumps(header, sort_keys=True).encode())


def _damaged(message: str) -> DamagedCacheError:
    return DamagedCacheError(f"{message}. The cache is damaged: delete its folder and write it again")
