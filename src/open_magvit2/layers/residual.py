"""The residual block of encoder and decoder: twice norm, SiLU, 3x3 convolution, added to the input (He et al. 2016)."""

from torch import Tensor, nn

from open_magvit2.layers.convolution import Convolution, convolution_2d
from open_magvit2.layers.normalization import group_norm
from open_magvit2.layers.recomputation import Recomputing, recomputed


class ResidualBlock(Recomputing):
    """Pre-activation residual block without convolution biases, [B, in, H, W] -> [B, out, H, W].

    Where the number of channels changes, the input passes a 1x1 convolution before the sum.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm_groups: int = 32, convolution: Convolution = convolution_2d
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = convolution(in_channels, out_channels, bias=False)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.conv2 = convolution(out_channels, out_channels, bias=False)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else convolution(in_channels, out_channels, kernel_size=1, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        shortcut = self.shortcut(features)  # first, so that its backward pass comes last and its gradient does not wait
        repeated = self.recomputation == "blocks"
        residual = recomputed(self._residual, features) if repeated else self._residual(features)
        return shortcut + residual

    def _residual(self, features: Tensor) -> Tensor:
        repeated = self.recomputation == "blocks"
        residual = self.norm_silu_convolution(self.norm1, self.conv1, features, repeated)
        return self.norm_silu_convolution(self.norm2, self.conv2, residual, repeated)
