"""The levels of the convolutional encoder and decoder: residual blocks, and attention between them."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.layers.grid_attention import GridAttention
from open_magvit2.layers.residual import ResidualBlock


class BlockOptions(NamedTuple):
    """Options that are equal in every residual block of a network; see `ResidualBlock`."""

    norm_groups: int = 32
    bias: bool = False
    shortcut_of_output: bool = False

    def residual_block(self, in_channels: int, out_channels: int) -> ResidualBlock:
        """One block [B, in, h, w] -> [B, out, h, w]."""
        return ResidualBlock(
            in_channels,
            out_channels,
            self.norm_groups,
            bias=self.bias,
            shortcut_of_output=self.shortcut_of_output,
        )

    def residual_blocks(self, in_channels: int, out_channels: int, number: int) -> nn.ModuleList:
        """A level's blocks; the first changes the number of channels."""
        widths = [in_channels, *(out_channels,) * (number - 1)]
        return nn.ModuleList(self.residual_block(width, out_channels) for width in widths)

    def attentions(self, channels: int, number: int) -> nn.ModuleList:
        """One attention for every residual block of a level, or an empty list."""
        return nn.ModuleList(GridAttention(channels, self.norm_groups) for _ in range(number))


def run_blocks(features: Tensor, blocks: nn.ModuleList, attentions: nn.ModuleList) -> Tensor:
    """A level's residual blocks, each followed by its attention if the level has any."""
    for i, block in enumerate(blocks):
        features = block(features)
        if attentions:
            features = attentions[i](features)
    return features


def make_middle(options: BlockOptions, channels: int, number: int, has_attention: bool) -> nn.Sequential:
    """The residual blocks at the lowest resolution, with an attention after the first if `has_attention`."""
    blocks: list[nn.Module] = [options.residual_block(channels, channels) for _ in range(number)]
    if has_attention:
        blocks.insert(1, GridAttention(channels, options.norm_groups))
    return nn.Sequential(*blocks)


def check_optional_sizes(**sizes: int | None) -> None:
    """Refuse sizes below 1; None stands for a default.

    Raises:
        ValueError: naming the argument.
    """
    integer(1, **{name: size for name, size in sizes.items() if size is not None})


def check_attention_levels(levels: Sequence[int], num_levels: int) -> tuple[int, ...]:
    """The numbers of the levels with attention.

    Raises:
        ValueError: for a number that is no level's.
    """
    if any(not 0 <= level < num_levels for level in levels):
        raise ValueError(f"attention_levels must lie in [0, {num_levels}), level 0 is full resolution; got {levels}")
    return tuple(levels)
