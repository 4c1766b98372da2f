"""A tokenizer of clips from the layers of the image tokenizer: 3-D convolutions, causal in time, are an argument."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from open_magvit2.layers.convolution import CausalConvolution3d, Convolution
from open_magvit2.layers.normalization import AdaptiveGroupNorm
from open_magvit2.layers.resampling import Upsample, downsample
from open_magvit2.layers.residual import ResidualBlock
from open_magvit2.protocols import SizeRule
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

FACTORS = (2, 4, 4)


class ClipTokenizer(nn.Module):
    """[B, 3, 1 + 2k, 4h, 4w] <-> indices [B, 1 + k, h, w]."""

    modality = "video"
    size_rule = SizeRule(FACTORS, offset=(1, 0, 0))

    def __init__(self, num_bits: int = 6, channels: int = 8, convolution: Convolution = CausalConvolution3d) -> None:
        super().__init__()
        self.quantizer = LookupFreeQuantizer(num_bits)
        self.codebook_size = self.quantizer.codebook_size
        self.encoder = nn.Sequential(
            convolution(3, channels),
            downsample(channels, convolution, (1, 2, 2)),
            ResidualBlock(channels, 2 * channels, norm_groups=4, convolution=convolution),
            downsample(2 * channels, convolution, (2, 2, 2)),
            convolution(2 * channels, num_bits, kernel_size=1),
        )
        self.conv_in = convolution(num_bits, 2 * channels)
        self.adaptive = AdaptiveGroupNorm(2 * channels, num_bits, num_groups=4)
        self.decoder = nn.Sequential(
            ResidualBlock(2 * channels, channels, norm_groups=4, convolution=convolution),
            Upsample(channels, convolution, (2, 2, 2)),
            Upsample(channels, convolution, (1, 2, 2)),
            convolution(channels, 3),
        )

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        self.size_rule.check(size)
        return (size[0] - 1) // 2 + 1, size[1] // 4, size[2] // 4

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.adaptive(self.conv_in(codes), codes))[:, :, 1:]  # the first of 2 + 2k frames goes

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        codes, indices, losses = self.quantizer(self.encoder(clip))
        return self.decode(codes), indices, losses

    @torch.no_grad()
    def tokenize(self, image: Tensor) -> Tensor:
        return self.quantizer.quantize(self.encoder(image))[1]

    @torch.no_grad()
    def detokenize(self, indices: Tensor) -> Tensor:
        return self.decode(self.quantizer.indices_to_codes(indices).to(self.conv_in.weight.dtype))

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        codes, indices = self.quantizer.quantize(self.encoder(image))
        return self.decode(codes), indices
