"""Images that scripts/cache_dataset.py has resized: uint8 planes in files mapped into memory, nothing to decode.

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
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from open_magvit2.common.arguments import integer
from open_magvit2.common.files import sha256, write_atomically
from open_magvit2.data.dataset import ImageDataset, RawImage
from open_magvit2.data.sources.image_folder import PackedStrings
from open_magvit2.data.transforms import Size

FORMAT = 1
HEADER, IMAGES, PATHS = "cache.json", "images.npy", "paths.bin"
ROW = np.dtype(
    [("offset", "<i8"), ("file", "<i4"), ("height", "<i4"), ("width", "<i4"), ("label", "<i4"), ("crc32", "<u4")]
)


_AT_ONCE = 4096  # images between two reports of a verification


class DamagedCacheError(ValueError):
    """A cache whose files are not what its header says; the message tells which, and what to do."""


class CachedImages(ImageDataset):
    """A cache as a dataset: the same images, labels and paths as its source, and after cropping the same pixels.

    Opening checks the header, the index and the files' sizes. The pixels' checksums are checked by
    `scripts/cache_dataset.py --verify`: at every read they would take longer than the read.

    Args:
        root: the folder of the cache.

    Attributes:
        image_size: a side, or [height, width], that all images just cover; a data module of another size refuses them.
        classes: the sorted class names of the source.

    Raises:
        FileNotFoundError: if the cache is not there or not finished.
        DamagedCacheError: if its files are not what its header says.
    """

    has_resized_arrays = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser()
        self.header = read_header(self.root)
        self.image_size: Size = self.header["image_size"]
        self.classes: list[str] = self.header["classes"]
        rows, paths = read_index(self.root, self.header)
        self._columns = {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names}
        self._paths = PackedStrings(paths)
        self._files: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.header["num_images"]

    def read(self, index: int) -> RawImage:
        """Image `index`: uint8 [3, height, width], read-only, just covering `image_size`."""
        path = os.path.join(self.header["source"], self._paths[index])
        return RawImage(self._pixels(index), int(self._columns["label"][index]), path)

    def is_damaged(self, index: int) -> bool:
        """Whether the pixels of image `index` have another checksum than those that were written."""
        return zlib.crc32(self._pixels(index)) != self._columns["crc32"][index]

    def relative_path(self, index: int) -> str:
        """Path of image `index` below the folder that was cached."""
        return self._paths[index]

    def identity(self) -> dict[str, str]:
        """That of the folder that was cached, so that a training may change from one to the other."""
        return {"names": self._paths.sha256(self._columns["label"])}

    def _pixels(self, index: int) -> np.ndarray:
        columns = self._columns
        number, offset = int(columns["file"][index]), int(columns["offset"][index])
        height, width = int(columns["height"][index]), int(columns["width"][index])
        if number not in self._files:
            # A plain view of the mapped file: slicing np.memmap itself takes as long as copying the crop.
            self._files[number] = np.asarray(np.memmap(self.root / pixel_file(number), dtype=np.uint8, mode="r"))
        return self._files[number][offset : offset + 3 * height * width].reshape(3, height, width)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # a process that gets the dataset maps the files itself


def verify(cache: CachedImages, num_workers: int = 0, progress: Callable[[int], Any] = lambda _: None) -> None:
    """Compare the checksums of all pixels with those that were written, in `num_workers` threads.

    Raises:
        DamagedCacheError: with the number of damaged images and the first paths.
    """
    integer(0, num_workers=num_workers)
    damaged: list[int] = []
    with ThreadPoolExecutor(max(1, num_workers)) as threads:
        for start in range(0, len(cache), _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, len(cache)))
            damaged += [index for index, wrong in zip(part, threads.map(cache.is_damaged, part), strict=True) if wrong]
            progress(len(part))
    if damaged:
        names = ", ".join(repr(cache.relative_path(index)) for index in damaged[:5])
        raise _damaged(
            f"{len(damaged)} of {len(cache)} images in {str(cache.root)!r} have wrong checksums, first {names}"
        )


def pixel_file(number: int) -> str:
    """Name of the file that holds the pixels of the source's images number * images_per_file and following."""
    return f"pixels-{number:05}.bin"


def write_header(root: Path, header: dict[str, Any]) -> None:
    """Finish a cache: write its header with a checksum of itself."""
    content = {"format": FORMAT, **header}
    write_atomically(root / HEADER, json.dumps({**content, "checksum": _checksum(content)}, indent=1).encode() + b"\n")


def read_header(root: Path) -> dict[str, Any]:
    """The header of a finished cache; its errors are those of `CachedImages`."""
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
    """The rows [num_images] and paths of a cache, after a check of their checksums and of all pixel files' sizes."""
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
