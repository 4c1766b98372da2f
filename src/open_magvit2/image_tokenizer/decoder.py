"""The convolutional decoder: codes -> image, upsampled by depth-to-space between levels (MAGVIT-v2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common.arguments import at_least
from open_magvit2.layers.convolution import convolution_2d
from open_magvit2.layers.normalization import AdaptiveGroupNorm, group_norm
from open_magvit2.layers.resampling import Upsample
from open_magvit2.layers.residual import ResidualBlock


class DecoderLevel(nn.Module):
    """(Adaptive norm,) residual blocks at one resolution, then, except at level 0, an upsampling by 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_residual_blocks: int,
        is_last: bool,
        style_channels: int | None,
        norm_groups: int,
    ) -> None:
        super().__init__()
        self.adaptive = None if style_channels is None else AdaptiveGroupNorm(in_channels, style_channels, norm_groups)
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels if j == 0 else out_channels, out_channels, norm_groups)
            for j in range(num_residual_blocks)
        )
        self.upsample = nn.Identity() if is_last else Upsample(out_channels)

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        if self.adaptive is not None:
            features = self.adaptive(features, codes)
        for block in self.blocks:
            features = block(features)
        return self.upsample(features)


class Decoder(nn.Module):
    """Codes [B, latent_channels, h, w] -> reconstruction [B, image_channels, H, W], about [-1, 1] and not clamped.

    Args:
        latent_channels, image_channels, channels, channel_multipliers, num_residual_blocks, norm_groups: as in
            `Encoder`; level 0 is the full resolution in both.
        adaptive_normalization: an `AdaptiveGroupNorm` on the codes before every level (the L models).

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
        adaptive_normalization: bool = False,
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
        self.adaptive_normalization = adaptive_normalization
        widths = [channels * multiplier for multiplier in channel_multipliers]
        self.conv_in = convolution_2d(latent_channels, widths[-1])
        self.middle = nn.Sequential(
            *(ResidualBlock(widths[-1], widths[-1], norm_groups) for _ in range(num_residual_blocks))
        )
        style_channels = latent_channels if adaptive_normalization else None
        self.levels = nn.ModuleList(
            DecoderLevel(before, width, num_residual_blocks, i == 0, style_channels, norm_groups)
            for i, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = group_norm(widths[0], norm_groups)
        self.conv_out = convolution_2d(widths[0], image_channels)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution, where VQGAN's adaptive weight of the GAN term compares gradients."""
        return self.conv_out.weight

    def forward(self, codes: Tensor) -> Tensor:
        features = self.middle(self.conv_in(codes))
        for level in reversed(self.levels):
            features = level(features, codes)
        return self.head(features)

    def head(self, features: Tensor) -> Tensor:
        """The last layers: features at full resolution -> image."""
        return self.conv_out(F.silu(self.norm_out(features)))
