"""The residual block of encoder and decoder: twice norm, SiLU, 3x3 convolution, added to the input (He et al. 2016)."""

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.layers.convolution import Convolution, convolution_2d
from open_magvit2.layers.normalization import group_norm


class ResidualBlock(nn.Module):
    """Pre-activation residual block, [B, in, *size] -> [B, out, *size].

    Where the number of channels changes, the shortcut is a 1x1 convolution.

    Args:
        in_channels, out_channels: C before and after.
        norm_groups: of the group norms.
        convolution: builds the convolutions.
        bias: of the convolutions.
        shortcut_of_output: where the number of channels changes, the shortcut takes the block's residual instead of its
            input: x -> r(x) + shortcut(r(x)), as the public MaskGIT tokenizer was trained.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_groups: int = 32,
        convolution: Convolution = convolution_2d,
        bias: bool = False,
        shortcut_of_output: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = convolution(in_channels, out_channels, bias=bias)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.conv2 = convolution(out_channels, out_channels, bias=bias)
        self.shortcut_of_output = shortcut_of_output and in_channels != out_channels
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else convolution(
                out_channels if self.shortcut_of_output else in_channels, out_channels, kernel_size=1, bias=bias
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        if self.shortcut_of_output:
            features = self.residual(features)
            return self.shortcut(features) + features
        shortcut = self.shortcut(features)  # first: its backward pass then comes last and keeps no gradient waiting
        return shortcut + self.residual(features)

    def residual(self, features: Tensor) -> Tensor:
        """The residual, which the block adds to its shortcut."""
        return self.second(self.first(features))

    def first(self, features: Tensor) -> Tensor:
        """Norm, SiLU and the convolution that changes the number of channels."""
        return self.conv1(F.silu(self.norm1(features)))

    def second(self, features: Tensor) -> Tensor:
        """Norm, SiLU, convolution."""
        return self.conv2(F.silu(self.norm2(features)))
