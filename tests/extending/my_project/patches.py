"""An encoder and a decoder: one linear map of each patch, with patches that are wider than high."""

from collections.abc import Sequence

from torch import Tensor, nn

from open_magvit2.layers.resampling import depth_to_space
from open_magvit2.protocols import SizeRule


class PatchEncoder(nn.Module):
    """[B, 3, H, W] -> [B, latent_channels, H / patch[0], W / patch[1]]."""

    def __init__(self, latent_channels: int, patch: tuple[int, int] = (4, 8)) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.patch = tuple(patch)
        self.size_rule = SizeRule(self.patch)
        self.linear = nn.Conv2d(3, latent_channels, self.patch, self.patch)

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        self.size_rule.check(size)
        return size[0] // self.patch[0], size[1] // self.patch[1]

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image)


class PatchDecoder(nn.Module):
    """[B, latent_channels, h, w] -> [B, 3, h * patch[0], w * patch[1]]."""

    def __init__(self, latent_channels: int, patch: tuple[int, int] = (4, 8)) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.patch = tuple(patch)
        self.linear = nn.Conv2d(latent_channels, 3 * self.patch[0] * self.patch[1], kernel_size=1)

    @property
    def last_layer(self) -> Tensor:
        return self.linear.weight

    def forward(self, codes: Tensor) -> Tensor:
        return depth_to_space(self.linear(codes), self.patch)
