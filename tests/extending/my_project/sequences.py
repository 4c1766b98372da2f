"""An encoder and a decoder of one-dimensional tokens: a whole image to a row of latents, as TiTok has them."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from open_magvit2.protocols import SizeRule


class SequenceEncoder(nn.Module):
    """[B, 3, side, side] -> [B, latent_channels, num_tokens]."""

    def __init__(self, latent_channels: int = 6, num_tokens: int = 5, side: int = 16) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.num_tokens = num_tokens
        self.side = side
        self.size_rule = SizeRule((1, 1), fixed=(side, side))
        self.linear = nn.Linear(3 * side**2, latent_channels * num_tokens)

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        self.size_rule.check(size)
        return (self.num_tokens,)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.flatten(1)).unflatten(1, (self.latent_channels, self.num_tokens))


class SequenceDecoder(nn.Module):
    """[B, latent_channels, num_tokens] -> [B, 3, side, side]."""

    def __init__(self, latent_channels: int = 6, num_tokens: int = 5, side: int = 16) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.num_tokens = num_tokens
        self.side = side
        self.linear = nn.Linear(latent_channels * num_tokens, math.prod((3, side, side)))

    @property
    def last_layer(self) -> Tensor:
        return self.linear.weight

    def forward(self, codes: Tensor) -> Tensor:
        return self.linear(codes.flatten(1)).unflatten(1, (3, self.side, self.side))
