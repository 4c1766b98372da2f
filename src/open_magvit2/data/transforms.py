"""Transforms of raw images: resize, crop, flip; uint8 from end to end, with the reference's exact pixels.

A transform is a value that is passed in: (image, random generator) -> uint8 [3, height, width]. One that makes several
samples of an image has an attribute `views`, their number, and is called with the number of the view as well.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open_magvit2.common.arguments import above, at_least, integer

Picture = Image.Image | np.ndarray  # RGB of any size; or uint8 [3, H, W] that is already resized
Size = int | Sequence[int]  # side of a square, or (height, width)
Transform = Callable[..., Tensor]


class HeightWidth(NamedTuple):
    """A size that was checked: once for a transform, not once more for every image."""

    height: int
    width: int


def height_and_width(size: Size) -> HeightWidth:
    """(height, width) of a size.

    Raises:
        ValueError: for numbers below 1, or another number of them.
    """
    if isinstance(size, HeightWidth):
        return size
    integer(1, size=size)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2:
        raise ValueError(f"size must be a side or (height, width), got {size}")
    return HeightWidth(*sides)


def resized_size(width: int, height: int, size: Size) -> tuple[int, int]:
    """(width, height) of the smallest image of these proportions that covers a size; the longer side is truncated.

    Of a square, the shorter side is `size` and the longer one `int(size * longer / shorter)`, torchvision's rule.
    """
    target_height, target_width = height_and_width(size)
    if target_width * height >= target_height * width:
        return target_width, max(target_height, int(target_width * height / width))
    return max(target_width, int(target_height * width / height)), target_height


def resize_to_cover(image: Image.Image, size: Size) -> Image.Image:
    """Resize to `resized_size`; an image that has it already is returned as it is.

    Pillow's bilinear filter, which is antialiased when it shrinks; bit for bit torchvision's `Resize(size)` on a Pillow
    image. Smaller images are enlarged. Other resizers change the task: 27 to 41 dB away on ImageNet.
    """
    new_size = resized_size(*image.size, size)
    return image if new_size == image.size else image.resize(new_size, Image.Resampling.BILINEAR)


def crop_to_pixels(image: Picture, left: int, top: int, size: Size, flip: bool = False) -> Tensor:
    """Crop the rectangle at (left, top), mirrored left to right if `flip`.

    Returns:
        uint8 [3, height, width], contiguous, pixels in [0, 255].
    """
    height, width = height_and_width(size)
    if isinstance(image, np.ndarray):
        # A copy first: the array may be a file in memory. Torch mirrors bytes four times faster than numpy.
        pixels = torch.from_numpy(image[:, top : top + height, left : left + width].copy(order="C"))
        return pixels.flip(2) if flip else pixels
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    if flip:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class ResizeRandomCrop:
    """Resize to cover `size`, crop at a random place, flip every second image if `flip`: the published recipe.

    Args:
        size: side of a square, or (height, width), in pixels.
        flip: mirror left to right with probability 1/2.
    """

    def __init__(self, size: Size, flip: bool = False) -> None:
        self.size = height_and_width(size)
        self.flip = flip

    def __call__(self, image: Picture, generator: np.random.Generator) -> Tensor:
        """Image -> uint8 [3, height, width]; every crop place is equally likely.

        Raises:
            ValueError: if an array was resized to another size.
        """
        image, width, height = _resized(image, self.size)
        left = _draw_below(width - self.size[1] + 1, generator)
        top = _draw_below(height - self.size[0] + 1, generator)
        flip = self.flip and bool(generator.integers(2))
        return crop_to_pixels(image, left, top, self.size, flip)


class ResizeCenterCrop:
    """Resize to cover `size` and crop the centre: bit for bit torchvision's Resize and CenterCrop."""

    def __init__(self, size: Size) -> None:
        self.size = height_and_width(size)

    def __call__(self, image: Picture, generator: np.random.Generator) -> Tensor:
        """Image -> uint8 [3, height, width]; the generator is not used.

        Raises:
            ValueError: if an array was resized to another size.
        """
        image, width, height = _resized(image, self.size)
        # round() goes to the even neighbour at .5, as torchvision's does: an odd margin is not always cut alike.
        left = round((width - self.size[1]) / 2)
        top = round((height - self.size[0]) / 2)
        return crop_to_pixels(image, left, top, self.size)


class RandomResizedCrop:
    """Crop a random share of the area at a random aspect ratio, then resize it to `size` (Szegedy et al. 2015).

    torchvision's algorithm: up to ten attempts, else the largest centre crop within the ratios.

    Args:
        size: side of a square, or (height, width), in pixels.
        scale: lowest and highest share of the area.
        ratio: lowest and highest width / height, drawn uniformly in the logarithm.
        flip: mirror left to right with probability 1/2.
    """

    def __init__(
        self,
        size: Size,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = False,
    ) -> None:
        self.size = height_and_width(size)
        above(0, scale=scale, ratio=ratio)
        if scale[0] > scale[1] or scale[1] > 1 or ratio[0] > ratio[1]:
            raise ValueError(f"expected 0 < low <= high, and scale up to 1, got scale {scale} and ratio {ratio}")
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.flip = flip

    def __call__(self, image: Picture, generator: np.random.Generator) -> Tensor:
        """Image -> uint8 [3, height, width]."""
        image = _as_picture(image)
        left, top, width, height = self._box(*image.size, generator)
        flip = self.flip and bool(generator.integers(2))
        # Cropped first, as torchvision does: `resize(box=...)` would filter over pixels beyond the box.
        cropped = image.crop((left, top, left + width, top + height))
        resized = cropped.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return crop_to_pixels(resized, 0, 0, self.size, flip)

    def _box(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the crop."""
        low, high = (math.log(ratio) for ratio in self.ratio)
        for _ in range(10):
            area = width * height * generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(low, high))
            new_width, new_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < new_width <= width and 0 < new_height <= height:
                left = _draw_below(width - new_width + 1, generator)
                return left, _draw_below(height - new_height + 1, generator), new_width, new_height
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        new_width, new_height = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (width - new_width) // 2, (height - new_height) // 2, new_width, new_height


class TenCrop:
    """Ten views of an image: its four corners and its centre, each mirrored as well; for tokens that are written once.

    As LlamaGen prepares its tokens (Sun et al. 2024): the centre of `size * enlargement` pixels is cropped first.

    Args:
        size: side of a square, or (height, width), in pixels.
        enlargement: of the area that the crops come from, at least 1; 1.05 and 1.1 there.
    """

    views = 10

    def __init__(self, size: Size, enlargement: float = 1.1) -> None:
        at_least(1, enlargement=enlargement)
        self.size = height_and_width(size)
        self.enlargement = enlargement

    def __call__(self, image: Picture, generator: np.random.Generator, view: int) -> Tensor:
        """View 0 to 9 of an image -> uint8 [3, height, width].

        torchvision's order: top left, top right, bottom left, bottom right, centre; then those of the mirrored image.
        """
        height, width = self.size
        area = (int(height * self.enlargement), int(width * self.enlargement))
        image = _as_picture(image)
        pixels = ResizeCenterCrop(area)(image, generator).numpy()
        right, bottom = area[1] - width, area[0] - height
        centre = (round(right / 2), round(bottom / 2))
        left, top = ((0, 0), (right, 0), (0, bottom), (right, bottom), centre)[view % 5]
        return crop_to_pixels(pixels, right - left if view >= 5 else left, top, self.size, flip=view >= 5)


def _as_picture(image: Picture) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))


def _draw_below(end: int, generator: np.random.Generator) -> int:
    """A number in [0, end); numpy draws nothing either if there is no choice, but takes its time."""
    return int(generator.integers(end)) if end > 1 else 0


def _resized(image: Picture, size: tuple[int, int]) -> tuple[Picture, int, int]:
    """The image resized to cover a size, and its width and height."""
    if isinstance(image, np.ndarray):
        height, width = image.shape[1:]
        if resized_size(width, height, size) != (width, height):
            raise ValueError(
                f"got an image that was resized to {min(height, width)} pixels, expected one that covers "
                f"{size[0]} x {size[1]} exactly: set image_size to the size the images were resized to, or resize them "
                "again"
            )
        return image, width, height
    image = resize_to_cover(image, size)
    return image, *image.size
