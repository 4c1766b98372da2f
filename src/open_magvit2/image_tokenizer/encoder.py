"""The convolutional encoder: image -> latent, downsampled by 2 between levels (MAGVIT-v2, arXiv 2310.05737).

With other arguments it is the encoder of VQGAN, latent-diffusion, LlamaGen, IBQ and MaskGIT: one skeleton.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.image_tokenizer.levels import (
    BlockOptions,
    check_attention_levels,
    check_optional_sizes,
    make_middle,
    run_blocks,
)
from open_magvit2.layers.convolution import convolution_2d
from open_magvit2.layers.normalization import group_norm
from open_magvit2.layers.resampling import Downsampling, make_downsample
from open_magvit2.protocols import SizeRule


class EncoderLevel(nn.Module):
    """Residual blocks at one resolution, each with attention or none; then, except at the last level, half the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_residual_blocks: int,
        options: BlockOptions,
        has_attention: bool,
        downsampling: Downsampling | None,
    ) -> None:
        super().__init__()
        self.blocks = options.residual_blocks(in_channels, out_channels, num_residual_blocks)
        self.attentions = options.attentions(out_channels, num_residual_blocks if has_attention else 0)
        self.downsample = nn.Identity() if downsampling is None else make_downsample(downsampling, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.downsample(run_blocks(features, self.blocks, self.attentions))


class Encoder(nn.Module):
    """[B, image_channels, H, W] in [-1, 1] -> latent [B, latent_channels, h, w], h = H / 2^(levels - 1).

    The defaults are the B model for 128 x 128 images; `channel_multipliers` (1, 1, 2, 2, 4) makes the 16x model for
    256 x 256, and 4 residual blocks the L models.

    Args:
        latent_channels: of the output; K for LFQ.
        image_channels: of the input.
        channels: C, the width at full resolution.
        channel_multipliers: level i has C * channel_multipliers[i] channels.
        num_residual_blocks: at every level.
        norm_groups: of every group norm; must divide every level's channels.
        num_middle_blocks: residual blocks after the last level; None for as many as in a level.
        middle_attention: `GridAttention` after the first of these (VQGAN).
        attention_levels: numbers of the levels with a `GridAttention` after every residual block (VQGAN).
        bias: of the convolutions that MAGVIT-v2 has without: the first, and those of the residual blocks.
        downsampling: "strided" (MAGVIT-v2), "strided_uncentred" (VQGAN) or "average" (MaskGIT).
        head_kernel: of the last convolution.
        bottleneck_channels: of the last convolution where a 1x1 convolution to `latent_channels` follows (VQGAN's
            quant_conv); None for none.
        shortcut_of_output: see `ResidualBlock` (MaskGIT).

    Raises:
        ValueError: for numbers below 1, groups that do not divide the channels, or attention at a level that does
            not exist.
    """

    def __init__(
        self,
        latent_channels: int = 18,
        image_channels: int = 3,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        num_residual_blocks: int = 2,
        norm_groups: int = 32,
        num_middle_blocks: int | None = None,
        middle_attention: bool = False,
        attention_levels: Sequence[int] = (),
        bias: bool = False,
        downsampling: Downsampling = "strided",
        head_kernel: int = 1,
        bottleneck_channels: int | None = None,
        shortcut_of_output: bool = False,
    ) -> None:
        super().__init__()
        integer(
            1,
            latent_channels=latent_channels,
            image_channels=image_channels,
            channels=channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            norm_groups=norm_groups,
            head_kernel=head_kernel,
        )
        check_optional_sizes(num_middle_blocks=num_middle_blocks, bottleneck_channels=bottleneck_channels)
        self.latent_channels = latent_channels
        self.image_channels = image_channels
        self.channels = channels
        self.channel_multipliers = tuple(channel_multipliers)
        self.num_residual_blocks = num_residual_blocks
        self.norm_groups = norm_groups
        self.num_middle_blocks = num_middle_blocks
        self.middle_attention = middle_attention
        self.attention_levels = check_attention_levels(attention_levels, len(self.channel_multipliers))
        self.bias = bias
        self.downsampling = downsampling
        self.head_kernel = head_kernel
        self.bottleneck_channels = bottleneck_channels
        self.shortcut_of_output = shortcut_of_output
        options = BlockOptions(norm_groups, bias, shortcut_of_output)
        widths = [channels * multiplier for multiplier in channel_multipliers]
        self.conv_in = convolution_2d(image_channels, channels, bias=bias)
        self.levels = nn.ModuleList(
            EncoderLevel(
                before,
                width,
                num_residual_blocks,
                options,
                has_attention=i in self.attention_levels,
                downsampling=None if i == len(widths) - 1 else downsampling,
            )
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.middle = make_middle(options, widths[-1], num_middle_blocks or num_residual_blocks, middle_attention)
        self.norm_out = group_norm(widths[-1], norm_groups)
        self.conv_out = convolution_2d(widths[-1], bottleneck_channels or latent_channels, kernel_size=head_kernel)
        self.to_latent = (
            nn.Identity()
            if bottleneck_channels is None
            else convolution_2d(bottleneck_channels, latent_channels, kernel_size=1)
        )

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
        return self.to_latent(self.head(self.middle(features)))

    def head(self, features: Tensor) -> Tensor:
        """The last layers: features at the lowest resolution -> latent, or what `to_latent` makes one of."""
        return self.conv_out(F.silu(self.norm_out(features)))
