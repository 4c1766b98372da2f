"""Resize the shorter side, crop a square, maybe flip: the reference's exact pixels, uint8 from end to end."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the shorter side becomes `size` and the longer one `int(size * longer / shorter)`.

    Pillow's bilinear filter, which is antialiased when it shrinks; bit for bit torchvision's `Resize(size)` on a Pillow
    image. Smaller images are enlarged. Other resizers change the task: 27 to 41 dB away on ImageNet.
    """
    shorter = min(image.size)
    new_size = (int(size * image.width / shorter), int(size * image.height / shorter))
    return image if new_size == image.size else image.resize(new_size, Image.Resampling.BILINEAR)


def crop_to_pixels(image: Image.Image, left: int, top: int, size: int, flip: bool = False) -> Tensor:
    """Cut the square at (left, top) out of an RGB image, mirrored left to right if `flip`.

    Returns:
        uint8 [3, size, size], contiguous, pixels in [0, 255].
    """
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    if flip:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class TrainingTransform:
    """Resize the shorter side to `size`, crop a square at a random place, flip every second image if `flip`."""

    def __init__(self, size: int, flip: bool = False) -> None:
        self.size = size
        self.flip = flip

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """RGB image of any size -> uint8 [3, size, size]; every crop place is equally likely."""
        image = resize_shorter_side(image, self.size)
        left = int(generator.integers(image.width - self.size + 1))
        top = int(generator.integers(image.height - self.size + 1))
        flip = self.flip and bool(generator.integers(2))
        return crop_to_pixels(image, left, top, self.size, flip)


class ValidationTransform:
    """Resize the shorter side to `size` and crop the centre: bit for bit torchvision's Resize and CenterCrop."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """RGB image of any size -> uint8 [3, size, size]; the generator is not used."""
        image = resize_shorter_side(image, self.size)
        # round() goes to the even neighbour at .5, as torchvision's does: an odd margin is not always cut alike.
        left = round((image.width - self.size) / 2)
        top = round((image.height - self.size) / 2)
        return crop_to_pixels(image, left, top, self.size)
