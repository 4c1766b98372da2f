"""Change of resolution by 2: a strided convolution down, depth-to-space up."""

from torch import Tensor, nn

from open_magvit2.layers.convolution import Convolution, convolution_2d


def downsample(channels: int, convolution: Convolution = convolution_2d) -> nn.Module:
    """3x3 convolution of stride 2: [B, C, H, W] -> [B, C, H/2, W/2]."""
    return convolution(channels, channels, stride=2)


def depth_to_space(features: Tensor) -> Tensor:
    """[B, 4C, H, W] -> [B, C, 2H, 2W]; channel (2 row + column) C + c goes to place (row, column) of a 2x2 block.

    TensorFlow's order, which MAGVIT-v2 uses; `torch.pixel_shuffle` has c in the slowest place instead.
    """
    batch, channels, height, width = features.shape
    blocks = features.reshape(batch, 2, 2, channels // 4, height, width)  # row and column within a block first
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // 4, 2 * height, 2 * width)


class Upsample(nn.Module):
    """3x3 convolution to four times the channels, then depth-to-space: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, channels: int, convolution: Convolution = convolution_2d) -> None:
        super().__init__()
        self.conv = convolution(channels, 4 * channels)

    def forward(self, features: Tensor) -> Tensor:
        return depth_to_space(self.conv(features))
