"""The convolution argument: blocks take a function that builds convolutions, so that 2D and 3D models share them."""

from typing import Protocol

from torch import nn


class Convolution(Protocol):
    """Builds a convolution that keeps the size of its input, apart from the stride."""

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, bias: bool = True
    ) -> nn.Module: ...


def convolution_2d(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """`nn.Conv2d` with zero padding kernel_size // 2: [B, in, H, W] -> [B, out, H / stride, W / stride]."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias)
