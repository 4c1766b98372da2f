"""Sets of finished images, generated or real: an npz file or a folder, read in batches of bounded memory."""

import json
import logging
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from open_magvit2.common.distributed import rank, world_size
from open_magvit2.common.files import sha256_of
from open_magvit2.common.images import from_image
from open_magvit2.data.decoding import UnreadableImageError, read_rgb
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.evaluation import provenance

logger = logging.getLogger(__name__)

_NUM_THREADS = 4
_ARRAYS, _IMAGES = "samples.npz", "images"  # of scripts/sample.py
_RECORD = "samples.json"  # with them in one folder
_MAKING = ("sampling", "seed", "classes", "precision", "pixels", "generator_sha256", "tokenizer_sha256")


class ImageSet(Protocol):
    """Images in an order, which the Inception Score depends on."""

    facts: dict[str, Any]  # for results.json: "path", "fingerprint", "fingerprint_mode", and what made them
    labels: Tensor | None  # int64 [N] class numbers in that order; None where they are not known

    def __len__(self) -> int:
        """Number of images on all ranks together."""

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches: positions int64 [B], pixels uint8 [B, 3, H, W] on any device."""


def open_images(path: str | Path) -> ImageSet:
    """The images of a file or folder.

    Raises:
        ValueError: for neither, an npz without images uint8 [N, H, W, 3] under arr_0, a folder without images, or an
            unfinished run of scripts/sample.py.
        FileNotFoundError: if there is nothing at the path.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: give an npz file or a folder of images")
    if path.is_dir():
        return FolderImages(path)
    if path.suffix != ".npz" or not path.is_file():
        raise ValueError(f"expected an npz file or a folder of images, got {path}")
    return NpzImages(path)


class NpzImages:
    """Images uint8 [N, H, W, 3] under arr_0, and labels [N] under arr_1 if they are there.

    A stored array is mapped into memory, a compressed one is read through once.

    Anything but N integers under arr_1 is left aside with a warning.

    Raises:
        ValueError: for another content; it says what was found.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.labels = path, None
        keys = array_names(path)
        if "arr_0" not in keys:
            raise ValueError(
                f"{path}: expected images under the key arr_0, got {', '.join(keys) or 'no keys'}: write them with "
                "numpy.savez(path, images)"
            )
        with whole(path), zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as stream:
            shape, is_fortran, dtype = _read_header(stream)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or is_fortran or 0 in shape:
            order = " in Fortran order" if is_fortran else ""
            raise ValueError(
                f"{path}: expected arr_0 uint8 [N, H, W, 3], got {dtype} {list(shape)}{order}: scale the pixels to "
                "0 .. 255 and put the channels last"
            )
        self.shape = shape
        if "arr_1" in keys:
            with whole(path), np.load(path) as arrays:
                labels = arrays["arr_1"]
            if labels.shape == shape[:1] and labels.dtype.kind in "iu":
                self.labels = torch.from_numpy(labels.astype(np.int64))
            else:
                logger.warning(
                    "%s: the classes are unknown: expected labels in arr_1, integers [%d], got %s %s. Write the file "
                    "again with the labels of its images",
                    path,
                    shape[0],
                    labels.dtype,
                    list(labels.shape),
                )
        self.facts = {
            "path": str(path),
            "fingerprint": sha256_of(path),
            "fingerprint_mode": "SHA-256 of the file",
            **_made_by(path, len(self)),
        }

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start, pixels in self._mapped(batch_size) if self._is_stored() else self._streamed(batch_size):
            image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
            yield torch.arange(start, start + len(image)), image

    def _is_stored(self) -> bool:
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo("arr_0.npy").compress_type == zipfile.ZIP_STORED

    def _mapped(self, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
        with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as stream:
            _read_header(stream)
            begin = archive.getinfo("arr_0.npy").header_offset
            in_archive = stream.tell()
        with open(self.path, "rb") as file:
            file.seek(begin + 26)  # of a zip's local header: lengths of the name and of the extra field
            lengths = np.frombuffer(file.read(4), "<u2")
        offset = begin + 30 + int(lengths.sum()) + in_archive
        if offset + math.prod(self.shape) > self.path.stat().st_size:
            raise ValueError(f"{self.path}: expected {len(self)} images in arr_0, the file ends before: copy it again")
        array = np.memmap(self.path, np.uint8, "r", offset, self.shape)
        for start in range(rank() * batch_size, len(self), world_size() * batch_size):
            yield start, array[start : start + batch_size]

    def _streamed(self, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
        with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as stream:
            _read_header(stream)
            for number, start in enumerate(range(0, len(self), batch_size)):
                shape = (min(batch_size, len(self) - start), *self.shape[1:])
                with whole(self.path):
                    content = stream.read(int(np.prod(shape)))
                if len(content) < np.prod(shape):
                    raise ValueError(
                        f"{self.path}: expected {len(self)} images in arr_0, its content ends before image "
                        f"{start + shape[0]}: write the file again"
                    )
                if number % world_size() == rank():
                    yield start, np.frombuffer(content, np.uint8).reshape(shape)


class FolderImages:
    """All images of a folder, at any depth, by path; classes are the folders they lie in.

    Raises:
        ValueError: for a folder without images, or of an unfinished run of scripts/sample.py.
    """

    def __init__(self, path: Path) -> None:
        # A run of scripts/sample.py: its images are one folder further down.
        self.path = path / _IMAGES if (path / _RECORD).is_file() and (path / _IMAGES).is_dir() else path
        self._names = ImageFolder(self.path).relative_paths()
        folders = [str(Path(name).parent) for name in self._names]
        classes = {name: number for number, name in enumerate(sorted(set(folders)))}
        self.labels = None if set(folders) == {"."} else torch.tensor([classes[name] for name in folders])
        arrays = self.path.parent / _ARRAYS
        if self.labels is None and (self.path.parent / _RECORD).is_file() and arrays.is_file():
            labels = NpzImages(arrays).labels
            if labels is not None and len(labels) != len(self):
                logger.warning(
                    "the classes are unknown: %s has %d labels, %s %d images", arrays, len(labels), self.path, len(self)
                )
            else:
                self.labels = labels
        facts = provenance.folder(self.path, self._names)
        self.facts = {
            "path": str(self.path),
            "fingerprint": facts["fingerprint"],
            "fingerprint_mode": "SHA-256 over names, sizes and contents",
            **_made_by(self.path, len(self)),
        }

    def __len__(self) -> int:
        return len(self._names)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        first = self._read(self._names[0])  # of the folder: all batches on all ranks have its size
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            for start in range(rank() * batch_size, len(self), world_size() * batch_size):
                names = self._names[start : start + batch_size]
                images = list(threads.map(self._read, names))
                for name, image in zip(names, images, strict=True):
                    if image.shape != first.shape:
                        sizes = [" x ".join(map(str, shape[1:])) for shape in (first.shape, image.shape)]
                        raise ValueError(
                            f"expected images of one size, got {sizes[0]} in {self._names[0]} and {sizes[1]} in {name} "
                            f"of {self.path}: resize and crop them first"
                        )
                yield torch.arange(start, start + len(images)), torch.stack(images)

    def _read(self, name: str) -> Tensor:
        try:
            return from_image(read_rgb(self.path / name))
        except UnreadableImageError as error:
            raise ValueError(f"{error}; replace or delete it") from error


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn what zip, zlib and NumPy say of damaged content, and of pickled objects, into one error."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{path}: the content of the npz file is damaged ({error}): copy or write it again") from error


def array_names(path: Path) -> list[str]:
    """The keys of an npz file.

    Raises:
        ValueError: if it is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: expected an npz file, got something else ({error}): was it copied whole?") from error


def class_balance(labels: Tensor | None) -> dict[str, Any]:
    """How many classes, and the smallest and the largest number of images of one; nulls where nothing is known."""
    if labels is None:
        return {"num_classes": None, "per_class": None}
    counts = labels.unique(return_counts=True)[1]
    return {"num_classes": len(counts), "per_class": [int(counts.min()), int(counts.max())]}


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of an npy file; the stream then stands at its first value."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _made_by(images: Path, number: int) -> dict[str, Any]:
    """The record that scripts/sample.py wrote beside its images; empty for files that it did not write."""
    path = images.parent / _RECORD
    if images.name not in (_ARRAYS, _IMAGES) or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; run scripts/sample.py into another folder") from error
    if not isinstance(content, dict) or "num_images" not in content:
        return {}
    if content["num_images"] != number:
        missing = "run scripts/sample.py again, it makes those that are missing"
        advice = "delete the others" if number > content["num_images"] else missing
        raise ValueError(f"expected the {content['num_images']} images that {path} tells of, got {number}: {advice}")
    return {name: content[name] for name in _MAKING if name in content}
