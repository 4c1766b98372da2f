"""Sources of images, and the step from their raw images to samples for a network."""

import argparse
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from open_magvit2.data.decoding import OF_THE_MACHINE, UNREADABLE, UnreadableImageError, to_rgb
from open_magvit2.data.image_files import escaped
from open_magvit2.data.order import RandomStreams, random_stream
from open_magvit2.data.transforms import Transform
from open_magvit2.protocols import Sample

# Unreadable images in a row after which the disk is at fault, not the images.
_MOST_ATTEMPTS = 100

# Iterable, but values of a configuration.
_NO_SOURCES = (str, bytes, tuple, list, set, Mapping, argparse.Namespace)


class RawImage(NamedTuple):
    """One decoded image as a source stores it, before cropping."""

    image: Image.Image | np.ndarray  # see `as_raw_image`
    label: int | None = -1  # class index; -1 or None where the source has no classes
    path: str = ""  # where the image comes from, for error messages and reports
    text: str | None = None  # what describes it; None where the source gives no texts


class Source(ABC):  # noqa: B024 - a class is recognised by its methods
    """A source of images. Any class with these methods is one; it need not name this base class.

    With random access: `__len__` and `read(index)`, or `__getitem__` as torchvision's datasets have it. The same index
    always gives the same item. Without: `__iter__`, in the same order every time (see `streaming.py`). An item is what
    `as_raw_image` takes; one of an iterable may also be a function without arguments that gives it, so that an item
    that is only skipped need not be decoded. A method `identity() -> dict[str, str]` lets a continued training notice
    other data.
    """

    @classmethod
    def __subclasshook__(cls, kind: type) -> Any:
        if cls is not Source or issubclass(kind, _NO_SOURCES):
            return NotImplemented
        methods = {name for name in ("__len__", "__iter__", "__getitem__", "read") if hasattr(kind, name)}
        return "__iter__" in methods or ("__len__" in methods and bool(methods & {"read", "__getitem__"}))


def is_stream(source: Any) -> bool:
    """Whether a source has no random access.

    Raises:
        ValueError: if it is no source at all: it names the class and what is missing.
    """
    if not isinstance(source, Source):
        raise ValueError(f"{type(source).__name__} is no source of data: {missing_methods(type(source))}")
    has_access = hasattr(source, "__len__") and (hasattr(source, "read") or hasattr(source, "__getitem__"))
    return isinstance(source, IterableDataset) or not has_access


def missing_methods(kind: Any) -> str:
    """The members that a class lacks to be a source, for a message."""
    methods = [name for name in ("__len__", "read", "__getitem__", "__iter__") if hasattr(kind, name)]
    return f"expected __len__ and read(index), or __iter__; got {' and '.join(methods) or 'none of them'}"


def source_paths(source: Any) -> list[str]:
    """Names of a source's items, in order, without reading any: relative paths, or "MyImages[0]", ..."""
    if hasattr(source, "relative_paths"):
        return source.relative_paths()
    return [f"{type(source).__name__}[{index}]" for index in range(len(source))]


class ImageDataset(Source, Dataset[RawImage]):
    """A base class of sources with random access: `source[index]` checks the index and reads.

    Attributes:
        image_size: shorter side of all images, for a source that stores them resized; None: any, to be resized.
        has_resized_arrays: whether its arrays uint8 [3, H, W] are resized already.
    """

    image_size: int | None = None
    has_resized_arrays = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> Any:
        """Image `index` in [0, len(self)), always the same one, as `as_raw_image` takes it.

        Raises:
            UnreadableImageError: if the image cannot be decoded; the message names its path.
        """

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the dataset: it holds images 0 .. {len(self) - 1}")
        return self.read(index)


def as_raw_image(item: Any, source: Any, index: int) -> RawImage:
    """What a source gave for an index as a `RawImage` with an RGB Pillow image, or with a resized array.

    Args:
        item: a `RawImage`; a PIL image; an array or tensor uint8 [H, W], or with 1 or 3 channels first or last; or
            (image, label) of those. A label is a whole number, or None where there is no class. Or a function that
            gives one of these.
        source: for the error, and for its `has_resized_arrays`.
        index: for the error and the path.

    Raises:
        UnreadableImageError: for a PIL image whose file cannot be decoded, or a function that cannot read one.
        ValueError: for anything else; it names the class, the index, what it got and what it expected.
    """
    try:
        item = item() if callable(item) else item
    except (OSError, SyntaxError) as error:  # in a user's source: Pillow's for a damaged file, or the disk's
        if getattr(error, "errno", None) in OF_THE_MACHINE:
            raise
        raise _unreadable(f"{type(source).__name__}[{index}]", error) from error
    values = item if isinstance(item, RawImage) else item[:2] if isinstance(item, tuple) else (item,)
    raw = RawImage(*values) if values else RawImage(values)
    name = os.fsdecode(raw.path or f"{type(source).__name__}[{index}]")
    image = raw.image
    if isinstance(image, Image.Image):
        image = _from_picture(image, name, source, index)
    elif not (isinstance(image, np.ndarray) and getattr(source, "has_resized_arrays", False)):
        image = _from_array(image, source, index)
    return RawImage(image, _whole_number(raw.label, source, index), name, raw.text)


class TransformedDataset(Dataset[Sample]):
    """Samples as a pure function of (seed, epoch, index): workers, ranks, order and resumption do not matter.

    Args:
        dataset: a `Source` with random access.
        transform: (image, random generator) -> uint8 [3, H, W]; one with several `views` makes as many samples of an
            image, one after the other.
        seed: of the transform's randomness, and of what replaces unreadable images.
        replace_unreadable: put another image, drawn for (seed, epoch, index), in the place of one that cannot be read,
            and name that under the sample's "skipped". For training alone: a figure must be over all its images.
    """

    def __init__(self, dataset: Source, transform: Transform, seed: int = 0, replace_unreadable: bool = False) -> None:
        self.dataset = dataset
        self.transform = transform
        self.views = getattr(transform, "views", 1)
        self.seed = seed
        self.replace_unreadable = replace_unreadable
        self._epoch, self._streams = 0, RandomStreams("transform", seed, 0)

    def __len__(self) -> int:
        return len(self.dataset) * self.views

    def __getitem__(self, key: int) -> Sample:
        """The sample of `key = epoch * len(self) + index`; a plain index is its sample in epoch 0.

        Epoch and index travel in one number because workers of earlier epochs live on and see nothing but the keys.

        Raises:
            UnreadableImageError: if the image cannot be read, or so many in a row that the disk must be gone.
        """
        epoch, index = divmod(key, len(self))
        position, view = divmod(index, self.views)
        shown, raw, skipped = self._read(epoch, position)
        if epoch != self._epoch:
            self._epoch, self._streams = epoch, RandomStreams("transform", self.seed, epoch)
        arguments = (raw.image, self._streams.at(index), *((view,) if self.views > 1 else ()))
        return make_sample(raw, self.transform(*arguments), shown * self.views + view, skipped)

    def _read(self, epoch: int, position: int) -> tuple[int, RawImage, list[UnreadableImageError]]:
        """The position that was read in the end, its image, and why others were not."""
        read = getattr(self.dataset, "__getitem__", None) or self.dataset.read
        skipped: list[UnreadableImageError] = []
        shown = position
        while True:
            try:
                return shown, as_raw_image(partial(read, shown), self.dataset, shown), skipped
            except UnreadableImageError as error:
                if not self.replace_unreadable:
                    raise
                skipped.append(error)
                check_attempts(len(skipped), error)
            if len(skipped) == 1:
                replacements = random_stream("replacement", self.seed, epoch, position)
            shown = int(replacements.integers(len(self.dataset)))


def _from_picture(image: Image.Image, name: str, source: Any, index: int) -> Image.Image:
    """A PIL image as an RGB image."""
    if getattr(image, "tile", None) and getattr(image, "fp", None) is None:
        raise _refusal("a PIL image whose file was closed before its load()", source, index)
    try:
        image.load()  # Pillow reads late: a damaged file is found out here
    except UNREADABLE as error:
        raise _unreadable(name, error) from error
    try:
        if 0 in image.size:
            raise ValueError("there are no pixels in it")
        return to_rgb(image)
    except ValueError as error:
        raise _refusal(f"a PIL image of mode {image.mode}, {image.width} x {image.height}", source, index) from error


def _unreadable(name: str, error: BaseException) -> UnreadableImageError:
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return UnreadableImageError(f"cannot read {name}: {cause}", name, cause)


def check_attempts(number: int, error: UnreadableImageError) -> None:
    """Refuse to go on after so many unreadable images in a row, `error` the last of them."""
    if number == _MOST_ATTEMPTS:
        raise UnreadableImageError(
            f"{_MOST_ATTEMPTS} images in a row could not be read, the last one: {error.cause}, {error.path!r}. Is the "
            "disk still there?",
            error.path,
            error.cause,
        ) from error


def make_sample(raw: RawImage, image: Tensor, index: int, skipped: Iterable[UnreadableImageError] = ()) -> Sample:
    """A `Sample` of a transformed image; it has a "text" only where the source gives one."""
    lines = "\n".join(f"{escaped(error.path)}\t{error.cause}" for error in skipped)
    sample = Sample(image=image, label=raw.label, path=raw.path, index=index, skipped=lines)
    if raw.text is not None:
        sample["text"] = raw.text
    return sample


def _from_array(image: Any, source: Any, index: int) -> Image.Image:
    """An unambiguous uint8 array or tensor as an RGB image."""
    array = image.numpy(force=True) if isinstance(image, Tensor) else image
    shape = tuple(getattr(array, "shape", ()))
    if isinstance(array, np.ndarray) and array.dtype == np.uint8 and 0 not in shape:
        if len(shape) == 2:
            return Image.fromarray(array).convert("RGB")
        if len(shape) == 3 and (shape[0] in (1, 3)) != (shape[2] in (1, 3)):
            pixels = array if shape[2] in (1, 3) else array.transpose(1, 2, 0)
            return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
    raise _refusal(f"{array.dtype} {shape}" if hasattr(array, "dtype") else type(image).__name__, source, index)


def _whole_number(label: Any, source: Any, index: int) -> int:
    """A class index, -1 for None."""
    try:
        return -1 if label is None else operator.index(label)
    except TypeError as error:
        raise ValueError(
            f"{type(source).__name__} gave the label {label!r} for index {index}; expected the number of a class, or "
            "None where there is none"
        ) from error


def _refusal(found: str, source: Any, index: int) -> ValueError:
    return ValueError(
        f"{type(source).__name__} gave {found} for index {index}; expected a PIL image of 8 bits a channel, or uint8 "
        "[H, W], [H, W, 3] or [3, H, W] with values in [0, 255]"
    )
