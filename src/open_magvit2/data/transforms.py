"""Resize the shorter side, crop a square, maybe flip: the reference's exact pixels, uint8 from end to end."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Picture = Image.Image | np.ndarray  # RGB of any size; or uint8 [3, H, W] whose shorter side is already resized


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) after resizing: the shorter side is `size`, the longer one `int(size * longer / shorter)`."""
    shorter = min(width, height)
    return int(size * width / shorter), int(size * height / shorter)


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resize to `resized_size`; an image that has it already is returned as it is.

    Pillow's bilinear filter, which is antialiased when it shrinks; bit for bit torchvision's `Resize(size)` on a Pillow
    image. Smaller images are enlarged. Other resizers change the task: 27 to 41 dB away on ImageNet.
    """
    new_size = resized_size(*image.size, size)
    return image if new_size == image.size else image.resize(new_size, Image.Resampling.BILINEAR)


def crop_to_pixels(image: Picture, left: int, top: int, size: int, flip: bool = False) -> Tensor:
    """Cut the square at (left, top) out of an image, mirrored left to right if `flip`.

    Returns:
        uint8 [3, size, size], contiguous, pixels in [0, 255].
    """
    if isinstance(image, np.ndarray):
        # A copy first: the array may be a file in memory. Torch mirrors bytes four times faster than numpy.
        pixels = torch.from_numpy(image[:, top : top + size, left : left + size].copy(order="C"))
        return pixels.flip(2) if flip else pixels
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    if flip:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class TrainingTransform:
    """Resize the shorter side to `size`, crop a square at a random place, flip every second image if `flip`."""

    def __init__(self, size: int, flip: bool = False) -> None:
        self.size = size
        self.flip = flip

    def __call__(self, image: Picture, generator: np.random.Generator) -> Tensor:
        """Image -> uint8 [3, size, size]; every crop place is equally likely.

        Raises:
            ValueError: if an array was resized to another size.
        """
        image, width, height = _resized(image, self.size)
        left, top = (_draw_below(side - self.size + 1, generator) for side in (width, height))
        flip = self.flip and bool(generator.integers(2))
        return crop_to_pixels(image, left, top, self.size, flip)


class ValidationTransform:
    """Resize the shorter side to `size` and crop the centre: bit for bit torchvision's Resize and CenterCrop."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Picture, generator: np.random.Generator) -> Tensor:
        """Image -> uint8 [3, size, size]; the generator is not used.

        Raises:
            ValueError: if an array was resized to another size.
        """
        image, width, height = _resized(image, self.size)
        # round() goes to the even neighbour at .5, as torchvision's does: an odd margin is not always cut alike.
        left = round((width - self.size) / 2)
        top = round((height - self.size) / 2)
        return crop_to_pixels(image, left, top, self.size)


def _draw_below(end: int, generator: np.random.Generator) -> int:
    """A number in [0, end); numpy draws nothing either if there is no choice, but takes its time."""
    return int(generator.integers(end)) if end > 1 else 0


def _resized(image: Picture, size: int) -> tuple[Picture, int, int]:
    """The image with `size` as its shorter side, and its width and height."""
    if isinstance(image, np.ndarray):
        height, width = image.shape[1:]
        if min(height, width) != size:
            raise ValueError(
                f"got an image that was resized to {min(height, width)} pixels, expected {size}: set image_size to the "
                "size the images were resized to, or resize them again"
            )
        return image, width, height
    image = resize_shorter_side(image, size)
    return image, *image.size
