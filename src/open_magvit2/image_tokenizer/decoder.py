"""The convolutional decoder: codes -> image, upsampled by depth-to-space between levels (MAGVIT-v2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.layers.convolution import Convolution, convolution_2d
from open_magvit2.layers.normalization import AdaptiveGroupNorm, group_norm
from open_magvit2.layers.recomputation import Recomputing, recomputed
from open_magvit2.layers.resampling import Upsample
from open_magvit2.layers.residual import ResidualBlock


class DecoderLevel(Recomputing):
    """(Adaptive norm,) residual blocks at one resolution, then, except at level 0, an upsampling by 2."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_residual_blocks: int,
        last: bool,
        style_channels: int | None,
        norm_groups: int,
        convolution: Convolution,
    ) -> None:
        super().__init__()
        self.adaptive = None if style_channels is None else AdaptiveGroupNorm(in_channels, style_channels, norm_groups)
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels if j == 0 else out_channels, out_channels, norm_groups, convolution)
            for j in range(num_residual_blocks)
        )
        self.upsample = nn.Identity() if last else Upsample(out_channels, convolution)

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        if self.adaptive is not None:
            if self.recomputation == "none":
                features = self.adaptive(features, codes)
            else:
                features = recomputed(self.adaptive, features, codes)
        for block in self.blocks:
            features = block(features)
        return self.upsample(features)


class Decoder(nn.Module):
    """Codes [B, latent_channels, h, w] -> reconstruction [B, 3, H, W], about [-1, 1] and not clamped.

    Args:
        latent_channels: of the codes; K for LFQ.
        channels, channel_multipliers, num_residual_blocks, norm_groups, convolution: as in `Encoder`; level 0
            is the full resolution in both.
        adaptive_normalization: an `AdaptiveGroupNorm` on the codes before every level (the L models).
    """

    def __init__(
        self,
        latent_channels: int,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        num_residual_blocks: int = 2,
        norm_groups: int = 32,
        adaptive_normalization: bool = False,
        convolution: Convolution = convolution_2d,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in channel_multipliers]
        self.conv_in = convolution(latent_channels, widths[-1])
        self.middle = nn.Sequential(
            *(ResidualBlock(widths[-1], widths[-1], norm_groups, convolution) for _ in range(num_residual_blocks))
        )
        style_channels = latent_channels if adaptive_normalization else None
        self.levels = nn.ModuleList(
            DecoderLevel(before, width, num_residual_blocks, i == 0, style_channels, norm_groups, convolution)
            for i, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = group_norm(widths[0], norm_groups)
        self.conv_out = convolution(widths[0], 3)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution, where VQGAN's adaptive generator weight compares gradients."""
        return self.conv_out.weight

    def forward(self, codes: Tensor) -> Tensor:
        features = self.middle(self.conv_in(codes))
        for level in reversed(self.levels):
            features = level(features, codes)
        # Always computed again: the losses' networks come on top of the decoder's activations, so that memory is
        # fullest just before these, the largest of all, are needed; and one of some fifty costs next to nothing.
        return recomputed(lambda features: self.conv_out(F.silu(self.norm_out(features))), features)
