"""Group normalization as the published models use it, and its adaptive variant; for any number of axes."""

from torch import Tensor, nn

from open_magvit2.common.precision import at_least_float32

EPS = 1e-6


def group_norm(channels: int, num_groups: int = 32, affine: bool = True) -> nn.GroupNorm:
    """`nn.GroupNorm` with eps 1e-6 (Wu & He, ECCV 2018); autocast computes it in float32.

    Raises:
        ValueError: if the groups do not divide the channels.
    """
    if num_groups < 1 or channels % num_groups:
        raise ValueError(
            f"{num_groups} normalization groups do not divide {channels} channels: "
            f"choose channels that are a multiple of {num_groups}, or fewer norm_groups"
        )
    return nn.GroupNorm(num_groups, channels, eps=EPS, affine=affine)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and bias come from the statistics of the codes (Open-MAGVIT2 L, arXiv 2409.04410).

    scale = Linear(std of each code channel over the grid), bias = Linear(their mean).
    """

    def __init__(self, channels: int, style_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(channels, num_groups, affine=False)
        self.scale = nn.Linear(style_channels, channels)
        self.bias = nn.Linear(style_channels, channels)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Normalize features [B, channels, *size] by style [B, style_channels, *grid].

        Raises:
            ValueError: for a grid of one position, which has no variance.
        """
        style = at_least_float32(style.flatten(2))  # codes in half precision then give the same statistics
        if style.shape[2] < 2:
            raise ValueError("adaptive group norm needs a grid of more than one code: the image is too small")
        scale = self.scale((style.var(dim=2) + EPS).sqrt().to(self.scale.weight.dtype))
        bias = self.bias(style.mean(dim=2).to(self.bias.weight.dtype))
        shape = (*scale.shape, *(1,) * (features.ndim - 2))
        return scale.view(shape) * self.norm(features) + bias.view(shape)
