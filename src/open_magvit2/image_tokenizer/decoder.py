"""The convolutional decoder: codes -> image, upsampled by 2 between levels (MAGVIT-v2, arXiv 2310.05737).

With other arguments it is the decoder of VQGAN, latent-diffusion, LlamaGen, IBQ and MaskGIT, as the encoder is.
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
from open_magvit2.layers.normalization import AdaptiveGroupNorm, group_norm
from open_magvit2.layers.resampling import Upsampling, make_upsample


class DecoderLevel(nn.Module):
    """(Adaptive norm,) residual blocks, each with attention or none; then, except at level 0, twice the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_residual_blocks: int,
        options: BlockOptions,
        has_attention: bool,
        upsampling: Upsampling | None,
        style_channels: int | None,
    ) -> None:
        super().__init__()
        self.adaptive = (
            None if style_channels is None else AdaptiveGroupNorm(in_channels, style_channels, options.norm_groups)
        )
        self.blocks = options.residual_blocks(in_channels, out_channels, num_residual_blocks)
        self.attentions = options.attentions(out_channels, num_residual_blocks if has_attention else 0)
        self.upsample = nn.Identity() if upsampling is None else make_upsample(upsampling, out_channels)

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        if self.adaptive is not None:
            features = self.adaptive(features, codes)
        return self.upsample(run_blocks(features, self.blocks, self.attentions))


class Decoder(nn.Module):
    """Codes [B, latent_channels, h, w] -> reconstruction [B, image_channels, H, W], about [-1, 1] and not clamped.

    Args:
        latent_channels, image_channels, channels, channel_multipliers, num_residual_blocks, norm_groups: as in
            `Encoder`; level 0 is the full resolution in both.
        adaptive_normalization: an `AdaptiveGroupNorm` on the codes before every level (the L models).
        num_middle_blocks, middle_attention, attention_levels, shortcut_of_output: as in `Encoder`.
        bias: of the convolutions of the residual blocks.
        upsampling: "depth_to_space" (MAGVIT-v2) or "nearest" (VQGAN, MaskGIT).
        bottleneck_channels: of the first convolution's input where a 1x1 convolution from `latent_channels` comes
            before it (VQGAN's post_quant_conv); None for none.

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
        adaptive_normalization: bool = False,
        num_middle_blocks: int | None = None,
        middle_attention: bool = False,
        attention_levels: Sequence[int] = (),
        bias: bool = False,
        upsampling: Upsampling = "depth_to_space",
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
        )
        check_optional_sizes(num_middle_blocks=num_middle_blocks, bottleneck_channels=bottleneck_channels)
        self.latent_channels = latent_channels
        self.image_channels = image_channels
        self.channels = channels
        self.channel_multipliers = tuple(channel_multipliers)
        self.num_residual_blocks = num_residual_blocks
        self.norm_groups = norm_groups
        self.adaptive_normalization = adaptive_normalization
        self.num_middle_blocks = num_middle_blocks
        self.middle_attention = middle_attention
        self.attention_levels = check_attention_levels(attention_levels, len(self.channel_multipliers))
        self.bias = bias
        self.upsampling = upsampling
        self.bottleneck_channels = bottleneck_channels
        self.shortcut_of_output = shortcut_of_output
        options = BlockOptions(norm_groups, bias, shortcut_of_output)
        widths = [channels * multiplier for multiplier in channel_multipliers]
        self.from_codes = (
            nn.Identity()
            if bottleneck_channels is None
            else convolution_2d(latent_channels, bottleneck_channels, kernel_size=1)
        )
        self.conv_in = convolution_2d(bottleneck_channels or latent_channels, widths[-1])
        self.middle = make_middle(options, widths[-1], num_middle_blocks or num_residual_blocks, middle_attention)
        self.levels = nn.ModuleList(
            DecoderLevel(
                before,
                width,
                num_residual_blocks,
                options,
                has_attention=i in self.attention_levels,
                upsampling=None if i == 0 else upsampling,
                style_channels=latent_channels if adaptive_normalization else None,
            )
            for i, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = group_norm(widths[0], norm_groups)
        self.conv_out = convolution_2d(widths[0], image_channels)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution, where VQGAN's adaptive weight of the GAN term compares gradients."""
        return self.conv_out.weight

    def forward(self, codes: Tensor) -> Tensor:
        features = self.middle(self.conv_in(self.from_codes(codes)))
        for level in reversed(self.levels):
            features = level(features, codes)
        return self.head(features)

    def head(self, features: Tensor) -> Tensor:
        """The last layers: features at full resolution -> image."""
        return self.conv_out(F.silu(self.norm_out(features)))
