"""Between Pillow's images and tensors of 8-bit pixels."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_image(pixels: Tensor) -> Image.Image:
    """uint8 [3, H, W] -> an RGB image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def from_image(image: Image.Image) -> Tensor:
    """An RGB image -> uint8 [3, H, W], contiguous."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
