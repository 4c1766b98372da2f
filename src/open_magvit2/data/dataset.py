"""What every dataset provides (raw images), and the step from there to samples a network can be fed with."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.randomness import RandomStreams, random_stream
from open_magvit2.protocols import Sample

# Unreadable images in a row after which it is the disk and not the images.
_MOST_ATTEMPTS = 100

Transform = Callable[[Image.Image | np.ndarray, np.random.Generator], Tensor]  # `RawImage.image` -> uint8 [3, H, W]


class RawImage(NamedTuple):
    """One decoded image as a dataset stores it, before cropping."""

    image: Image.Image | np.ndarray  # mode RGB, any size; or uint8 [3, H, W], its shorter side already resized
    label: int  # class index; -1 where the dataset has no classes
    path: str  # where the image comes from, for error messages and reports


class ImageDataset(Dataset[RawImage], ABC):
    """Base class of every dataset: a length and `read`. Transforms, sharding and randomness are not its business.

    Attributes:
        image_size: shorter side of all images, for a dataset that stores them resized; None: any, to be resized.
    """

    image_size: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> RawImage:
        """Decode image `index` in [0, len(self)); the same index always gives the same image.

        Raises:
            UnreadableImageError: if the image cannot be decoded; the message names its path.
        """

    def __getitem__(self, index: int) -> RawImage:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the dataset: it holds images 0 .. {len(self) - 1}")
        return self.read(index)


class TransformedDataset(Dataset[Sample]):
    """Samples as a pure function of (seed, epoch, index): workers, ranks, order and resumption do not matter.

    Args:
        dataset: the raw images.
        transform: turns a raw image and a random generator into uint8 [3, H, W].
        seed: of the transform's randomness, and of what replaces unreadable images.
        replace_unreadable: put another image, drawn for (seed, epoch, index), in the place of one that cannot be read,
            and name that under the sample's "skipped". For training alone: a figure must be over all its images.
    """

    def __init__(
        self, dataset: ImageDataset, transform: Transform, seed: int = 0, replace_unreadable: bool = False
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.replace_unreadable = replace_unreadable
        self._epoch, self._streams = 0, RandomStreams("transform", seed, 0)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int) -> Sample:
        """The sample of `key = epoch * len(self) + index`; a plain index is its sample in epoch 0.

        Epoch and index travel in one number because workers of earlier epochs live on and see nothing but the keys.

        Raises:
            UnreadableImageError: if the image cannot be read, or so many in a row that the disk must be gone.
        """
        epoch, index = divmod(key, len(self.dataset))
        skipped: list[UnreadableImageError] = []
        shown = index
        while True:
            try:
                image, label, path = self.dataset[shown]
                break
            except UnreadableImageError as error:
                if not self.replace_unreadable:
                    raise
                skipped.append(error)
                if len(skipped) == _MOST_ATTEMPTS:
                    raise UnreadableImageError(
                        f"{_MOST_ATTEMPTS} images in a row could not be read, the last one: {error.cause}, "
                        f"{error.path!r}. Is the disk still there?",
                        error.path,
                        error.cause,
                    ) from error
            if len(skipped) == 1:
                replacements = random_stream("replacement", self.seed, epoch, index)
            shown = int(replacements.integers(len(self.dataset)))
        if epoch != self._epoch:
            self._epoch, self._streams = epoch, RandomStreams("transform", self.seed, epoch)
        return Sample(
            image=self.transform(image, self._streams.at(index)),
            label=label,
            path=path,
            index=shown,
            skipped="\n".join(f"{error.path}\t{error.cause}" for error in skipped),
        )
