"""The convolutional encoder: image -> latent, downsampled by 2 between levels (MAGVIT-v2, arXiv 2310.05737)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common.arguments import at_least
from open_magvit2.layers.convolution import convolution_2d
from open_magvit2.layers.normalization import group_norm
from open_magvit2.layers.resampling import downsample
from open_magvit2.layers.residual import ResidualBlock
from open_magvit2.protocols import SizeRule


class EncoderLevel(nn.Module):
    """Residual blocks at one resolution, then, except at the last level, a downsampling by 2."""

    def __init__(
        self, in_channels: int, out_channels: int, num_residual_blocks: int, is_last: bool, norm_groups: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels if j == 0 else out_channels, out_channels, norm_groups)
            for j in range(num_residual_blocks)
        )
        self.downsample = nn.Identity() if is_last else downsample(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return self.downsample(features)


class Encoder(nn.Module):
    """[B, image_channels, H, W] in [-1, 1] -> latent [B, latent_channels, h, w], h = H / 2^(levels - 1).

    The defaults are the B model for 128 x 128 images; `channel_multipliers` (1, 1, 2, 2, 4) makes the 16x model for
    256 x 256, and 4 residual blocks the L models.

    Args:
        latent_channels: of the output; K for LFQ.
        image_channels: of the input.
        channels: C, the width at full resolution.
        channel_multipliers: level i has C * channel_multipliers[i] channels.
        num_residual_blocks: at every level and in the middle.
        norm_groups: of every group norm; must divide every level's channels.

    Raises:
        ValueError: for numbers below 1, or groups that do not divide the channels.
    """

    def __init__(
        self,
        latent_channels: int = 18,
        image_channels: int = 3,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        num_residual_blocks: int = 2,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        at_least(
            1,
            latent_channels=latent_channels,
            image_channels=image_channels,
            channels=channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            norm_groups=norm_groups,
        )
        self.latent_channels = latent_channels
        self.image_channels = image_channels
        self.channels = channels
        self.channel_multipliers = tuple(channel_multipliers)
        self.num_residual_blocks = num_residual_blocks
        self.norm_groups = norm_groups
        widths = [channels * multiplier for multiplier in channel_multipliers]
        self.conv_in = convolution_2d(image_channels, channels, bias=False)
        self.levels = nn.ModuleList(
            EncoderLevel(before, width, num_residual_blocks, i == len(widths) - 1, norm_groups)
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.middle = nn.Sequential(
            *(ResidualBlock(widths[-1], widths[-1], norm_groups) for _ in range(num_residual_blocks))
        )
        self.norm_out = group_norm(widths[-1], norm_groups)
        self.conv_out = convolution_2d(widths[-1], latent_channels, kernel_size=1)

    @property
    def size_rule(self) -> SizeRule:
        """Sides are multiples of 2^(levels - 1)."""
        factor = 2 ** (len(self.levels) - 1)
        return SizeRule((factor, factor))

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(h, w) of the latent of an image of a size (H, W)."""
        self.size_rule.check(size)
        return tuple(side // factor for side, factor in zip(size, self.size_rule.multiple, strict=True))

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv_in(image)
        for level in self.levels:
            features = level(features)
        return self.head(self.middle(features))

    def head(self, features: Tensor) -> Tensor:
        """The last layers: features at the lowest resolution -> latent."""
        return self.conv_out(F.silu(self.norm_out(features)))
