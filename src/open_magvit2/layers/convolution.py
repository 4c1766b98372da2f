"""Convolutions behind one signature, so that 2-D and 3-D networks share every block."""

from collections.abc import Sequence
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

Axes = int | Sequence[int]  # one number for all axes, or one an axis


class Convolution(Protocol):
    """Builds a convolution that keeps the size of its input, apart from the stride."""

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: Axes = 3, stride: Axes = 1, bias: bool = True
    ) -> nn.Module: ...


def convolution_2d(
    in_channels: int, out_channels: int, kernel_size: Axes = 3, stride: Axes = 1, bias: bool = True
) -> nn.Conv2d:
    """`nn.Conv2d` with zero padding kernel_size // 2: [B, in, H, W] -> [B, out, H / stride, W / stride]."""
    kernel = per_axis(kernel_size, 2)
    padding = tuple(size // 2 for size in kernel)
    return nn.Conv2d(in_channels, out_channels, kernel, per_axis(stride, 2), padding, bias=bias)


def convolution_3d(
    in_channels: int, out_channels: int, kernel_size: Axes = 3, stride: Axes = 1, bias: bool = True
) -> nn.Conv3d:
    """`nn.Conv3d` with zero padding kernel_size // 2 along all axes.

    [B, in, T, H, W] -> [B, out, T / stride, H / stride, W / stride].
    """
    kernel = per_axis(kernel_size, 3)
    padding = tuple(size // 2 for size in kernel)
    return nn.Conv3d(in_channels, out_channels, kernel, per_axis(stride, 3), padding, bias=bias)


class CausalConvolution3d(nn.Conv3d):
    """3-D convolution whose output at a frame depends on that frame and earlier ones (MAGVIT-v2, section 3.2).

    Zeros for kernel - 1 frames in front and none behind in time, kernel // 2 on both sides in space:
    [B, in, T, H, W] -> [B, out, floor((T - 1) / stride) + 1, H / stride, W / stride]. An image is a clip of one frame.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Axes = 3, stride: Axes = 1, bias: bool = True
    ) -> None:
        time, height, width = per_axis(kernel_size, 3)
        padding = (0, height // 2, width // 2)
        super().__init__(in_channels, out_channels, (time, height, width), per_axis(stride, 3), padding, bias=bias)
        self.frames_in_front = time - 1

    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(F.pad(clip, (0, 0, 0, 0, self.frames_in_front, 0)))


def per_axis(value: Axes, num_axes: int) -> tuple[int, ...]:
    """One number an axis: 3 -> (3, 3), (1, 3, 3) stays.

    Raises:
        ValueError: for another number of axes, or numbers below 1.
    """
    values = (value,) * num_axes if isinstance(value, int) else tuple(value)
    if len(values) != num_axes or min(values) < 1:
        raise ValueError(f"expected a positive number or {num_axes} of them, one an axis, got {value}")
    return values
