"""Two sources of images: one with a length, one that is a stream."""

from collections.abc import Iterator

import numpy as np


class Stripes:
    """Image `index` is 40 x 48 and has stripes of index + 1 pixels."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def read(self, index: int) -> np.ndarray:
        row = 255 * (np.arange(48) // (index + 1) % 2)
        return np.broadcast_to(row[None, :, None], (40, 48, 3)).astype(np.uint8)


class StripeStream:
    """The same images, one after another."""

    def __init__(self, num_images: int) -> None:
        self.images = Stripes(num_images)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.images.read(index) for index in range(len(self.images)))
