"""MaskBit's discriminator (Weber et al., arXiv 2409.16211), with which Open-MAGVIT2 trained its model of 16,384 codes.

It keeps the resolution in its convolutions and halves it by a blur, so that no pixel is skipped (Zhang, "Making
Convolutional Networks Shift-Invariant Again", arXiv 1904.11486).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common.arguments import integer

_SLOPE = 0.1  # of LeakyReLU for negative values
_POOLED = 16  # side of the map of logits, whatever the image


class BlurDownsample(nn.Module):
    """Blur by (1, 3, 3, 1) along both axes and keep every second pixel: [B, C, H, W] -> [B, C, H/2, W/2]."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(line, line)
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None])

    def forward(self, features: Tensor) -> Tensor:
        channels = features.shape[1]
        kernel = self.kernel.to(features.dtype).expand(channels, -1, -1, -1)
        return F.conv2d(features, kernel, stride=2, padding=1, groups=channels)


class BlurDiscriminator(nn.Module):
    """Image [B, 3, H, W] in [-1, 1] -> logits [B, 1, 16, 16]: high where a part of the image looks real.

    5x5 convolution, then stages of 3x3 convolution, blur to half the resolution and group norm; the largest feature in
    each of 16 x 16 parts of the map, a 1x1 and a 5x5 convolution. LeakyReLU(0.1).

    Args:
        channels: of the first stage; the next ones have twice and four times as many.
        num_stages: each halves the resolution.
        norm_groups: must divide the channels.

    Raises:
        ValueError: for sizes out of range; in `forward`, for an image too small to halve.
    """

    def __init__(self, channels: int = 128, num_stages: int = 3, norm_groups: int = 32) -> None:
        super().__init__()
        integer(1, channels=channels, num_stages=num_stages, norm_groups=norm_groups)
        if channels % norm_groups:
            raise ValueError(f"{norm_groups} norm_groups do not divide {channels} channels of the discriminator")
        widths = [channels, *(channels * 2**stage for stage in range(num_stages))]
        self.block_in = nn.Sequential(nn.Conv2d(3, channels, 5, padding=2), nn.LeakyReLU(_SLOPE))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1),
                BlurDownsample(),
                nn.GroupNorm(norm_groups, width),
                nn.LeakyReLU(_SLOPE),
            )
            for before, width in pairwise(widths)
        )
        self.pool = nn.AdaptiveMaxPool2d(_POOLED)
        self.to_logits = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 1), nn.LeakyReLU(_SLOPE), nn.Conv2d(widths[-1], 1, 5, padding=2)
        )
        self.smallest_image = 2**num_stages

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[2:]) < self.smallest_image:
            raise ValueError(
                f"the discriminator needs images of at least {self.smallest_image} pixels a side, got "
                f"{tuple(image.shape[2:])}: use larger images or fewer num_stages"
            )
        features = self.block_in(image)
        for block in self.blocks:
            features = block(features)
        return self.to_logits(self.pool(features))
