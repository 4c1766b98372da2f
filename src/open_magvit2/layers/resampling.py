"""Change of resolution: a strided convolution down, depth-to-space up, along any axes; and what older networks use."""

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.layers.convolution import Axes, Convolution, convolution_2d

Downsampling = Literal["strided", "strided_uncentred", "average"]
Upsampling = Literal["depth_to_space", "nearest"]


def downsample(channels: int, convolution: Convolution = convolution_2d, factors: Axes = 2) -> nn.Module:
    """Convolution of kernel 3 and stride `factors`: [B, C, H, W] -> [B, C, H/2, W/2] by default."""
    return convolution(channels, channels, stride=factors)


def depth_to_space(features: Tensor, factors: Sequence[int] = (2, 2)) -> Tensor:
    """[B, 4C, H, W] -> [B, C, 2H, 2W] by default: channels become positions of a block.

    Channel (2 row + column) C + c goes to place (row, column) of a 2 x 2 block. This is TensorFlow's order, which
    MAGVIT-v2 uses; in `torch.pixel_shuffle` the channel c varies slowest instead.

    Args:
        features: [B, prod(factors) * C, *size].
        factors: of the axes of `size`, first axis first; for clips (time, height, width).
    """
    blocks = features.unflatten(1, (*factors, -1))  # [B, *factors, C, *size]
    batch, num = features.shape[0], len(factors)  # no len(features): an exported batch is a variable
    in_pairs = [axis for pair in zip(range(num + 2, 2 * num + 2), range(1, num + 1), strict=True) for axis in pair]
    size = [length * factor for length, factor in zip(features.shape[2:], factors, strict=True)]
    return blocks.permute(0, num + 1, *in_pairs).reshape(batch, -1, *size)


class Upsample(nn.Module):
    """Convolution of kernel 3 to prod(factors) times the channels, then depth-to-space.

    [B, C, H, W] -> [B, C, 2H, 2W] by default.
    """

    def __init__(
        self, channels: int, convolution: Convolution = convolution_2d, factors: Sequence[int] = (2, 2)
    ) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.conv = convolution(channels, math.prod(self.factors) * channels)

    def forward(self, features: Tensor) -> Tensor:
        return depth_to_space(self.conv(features), self.factors)


class UncentredDownsample(nn.Module):
    """Convolution of kernel 3 and stride 2 on an image with zeros at its right and lower edges only (VQGAN).

    [B, C, H, W] -> [B, C, H/2, W/2]; an output sees the pixels 2i .. 2i+2, where `downsample`'s sees 2i-1 .. 2i+1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(F.pad(features, (0, 1, 0, 1)))


class NearestUpsample(nn.Module):
    """Every pixel becomes 2 x 2 equal ones, then a convolution of kernel 3: [B, C, H, W] -> [B, C, 2H, 2W] (VQGAN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = convolution_2d(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))


def make_downsample(kind: Downsampling, channels: int) -> nn.Module:
    """The downsampling by 2 of a name: [B, C, H, W] -> [B, C, H/2, W/2]."""
    kinds = {"strided": downsample, "strided_uncentred": UncentredDownsample, "average": lambda _: nn.AvgPool2d(2)}
    return kinds[kind](channels)


def make_upsample(kind: Upsampling, channels: int) -> nn.Module:
    """The upsampling by 2 of a name: [B, C, H, W] -> [B, C, 2H, 2W]."""
    return {"depth_to_space": Upsample, "nearest": NearestUpsample}[kind](channels)
