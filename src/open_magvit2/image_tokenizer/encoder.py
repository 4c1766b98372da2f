"""The convolutional encoder: image -> latent, downsampled by 2 between levels (MAGVIT-v2, arXiv 2310.05737)."""

from collections.abc import Sequence

from torch import Tensor, nn

from open_magvit2.layers.convolution import Convolution, convolution_2d
from open_magvit2.layers.normalization import group_norm
from open_magvit2.layers.recomputation import Recomputing
from open_magvit2.layers.resampling import downsample
from open_magvit2.layers.residual import ResidualBlock


class EncoderLevel(nn.Module):
    """Residual blocks at one resolution, then, except at the last level, a downsampling by 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_residual_blocks: int,
        last: bool,
        norm_groups: int,
        convolution: Convolution,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels if j == 0 else out_channels, out_channels, norm_groups, convolution)
            for j in range(num_residual_blocks)
        )
        self.downsample = nn.Identity() if last else downsample(out_channels, convolution)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return self.downsample(features)


class Encoder(Recomputing):
    """[B, 3, H, W] in [-1, 1] -> latent [B, latent_channels, h, w], h = H / 2^(levels - 1).

    Args:
        latent_channels: of the output; K for LFQ.
        channels: C, at full resolution.
        channel_multipliers: level i has C * channel_multipliers[i] channels.
        num_residual_blocks: at every level and in the middle.
        norm_groups: of every group norm; must divide every level's channels.
        convolution: builds the convolutions.
    """

    def __init__(
        self,
        latent_channels: int,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        num_residual_blocks: int = 2,
        norm_groups: int = 32,
        convolution: Convolution = convolution_2d,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in channel_multipliers]
        self.conv_in = convolution(3, channels, bias=False)
        self.levels = nn.ModuleList(
            EncoderLevel(before, width, num_residual_blocks, i == len(widths) - 1, norm_groups, convolution)
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.middle = nn.Sequential(
            *(ResidualBlock(widths[-1], widths[-1], norm_groups, convolution) for _ in range(num_residual_blocks))
        )
        self.norm_out = group_norm(widths[-1], norm_groups)
        self.conv_out = convolution(widths[-1], latent_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv_in(image)
        for level in self.levels:
            features = level(features)
        features = self.middle(features)
        return self.norm_silu_convolution(self.norm_out, self.conv_out, features)
