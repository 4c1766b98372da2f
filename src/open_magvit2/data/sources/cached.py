"""Images that scripts/cache_dataset.py has resized: uint8 planes in files mapped into memory, nothing to decode."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from open_magvit2.data.dataset import ImageDataset, RawImage
from open_magvit2.data.sources.cache_format import DamagedCacheError, pixel_file, read_header, read_index
from open_magvit2.data.sources.image_folder import PackedStrings


class CachedImages(ImageDataset):
    """A cache as a dataset: the same images, labels and paths as its source, and after cropping the same pixels.

    Opening checks the header, the index and the files' sizes. The pixels' checksums are checked by
    `scripts/cache_dataset.py --verify`: at every read they would take longer than the read.

    Args:
        root: the folder of the cache.

    Attributes:
        image_size: shorter side of all images; a data module of another image size refuses the cache.
        classes: the sorted class names of the source.

    Raises:
        FileNotFoundError: if the cache is not there or not finished.
        DamagedCacheError: if its files are not what its header says.
    """

    has_resized_arrays = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser()
        self.header = read_header(self.root)
        self.image_size: int = self.header["image_size"]
        self.classes: list[str] = self.header["classes"]
        rows, paths = read_index(self.root, self.header)
        self._columns = {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names}
        self._paths = PackedStrings(paths)
        self._files: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.header["num_images"]

    def read(self, index: int) -> RawImage:
        """Image `index`: uint8 [3, height, width], read-only, its shorter side `image_size` pixels."""
        path = os.path.join(self.header["source"], self._paths[index])
        return RawImage(self._pixels(index), int(self._columns["label"][index]), path)

    def is_damaged(self, index: int) -> bool:
        """Whether the pixels of image `index` have another checksum than those that were written."""
        return zlib.crc32(self._pixels(index)) != self._columns["crc32"][index]

    def relative_path(self, index: int) -> str:
        """Where image `index` lay below the folder that was cached."""
        return self._paths[index]

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
    """Compare the checksums of all pixels with those that were written.

    Args:
        cache: to read from the first to the last byte.
        num_workers: processes; 0 for none beside this one.
        progress: called with the number of images now and then.

    Raises:
        DamagedCacheError: with the number of damaged images and the first paths.
    """
    damaged: list[int] = []
    parts = _DamagedImages(cache)
    for found in DataLoader(parts, batch_size=None, num_workers=num_workers):
        damaged += found
        progress(parts.step)
    if damaged:
        names = ", ".join(repr(cache.relative_path(index)) for index in damaged[:5])
        raise DamagedCacheError(
            f"{len(damaged)} of {len(cache)} images in {str(cache.root)!r} have wrong checksums, first {names}: delete "
            "the folder and write the cache again"
        )


class _DamagedImages(Dataset[list[int]]):
    """Indices of the damaged images among `step` images each."""

    def __init__(self, cache: CachedImages, step: int = 64) -> None:
        self.cache = cache
        self.step = step

    def __len__(self) -> int:
        return -(-len(self.cache) // self.step)

    def __getitem__(self, number: int) -> list[int]:
        indices = range(number * self.step, min((number + 1) * self.step, len(self.cache)))
        return [index for index in indices if self.cache.is_damaged(index)]
