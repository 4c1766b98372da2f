"""Change of resolution: a strided convolution down, depth-to-space up; along any axes, by any factors."""

import math
from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from open_magvit2.layers.convolution import Axes, Convolution, convolution_2d


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
    axes = range(len(factors))
    block, size = " ".join(f"f{axis}" for axis in axes), " ".join(f"s{axis}" for axis in axes)
    merged = " ".join(f"(s{axis} f{axis})" for axis in axes)
    return rearrange(features, f"b ({block} c) {size} -> b c {merged}", **{f"f{axis}": factors[axis] for axis in axes})


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
