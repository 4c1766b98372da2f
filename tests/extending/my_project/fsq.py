"""A quantizer: finite scalar quantization (Mentzer et al., ICLR 2024, arXiv 2309.15505) with odd numbers of levels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from open_magvit2.protocols import QuantizerOutput


class FSQ(nn.Module):
    """Rounds each bounded channel to one of its levels; the index counts the combinations."""

    def __init__(self, levels: Sequence[int] = (5, 5, 5)) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.latent_channels = len(self.levels)
        self.codebook_size = math.prod(self.levels)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        codes, indices = self.quantize(latent)
        bounded = latent.tanh()
        return QuantizerOutput(bounded + (codes - bounded).detach(), indices, {})

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        half = self._per_channel([(level - 1) / 2 for level in self.levels], latent)
        digits = (latent.tanh() * half).round()
        place = self._per_channel([math.prod(self.levels[:i]) for i in range(len(self.levels))], latent)
        return digits / half, ((digits + half) * place).sum(dim=1).long()

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        digits, rest = [], indices
        for level in self.levels:
            half = (level - 1) / 2
            digits.append((rest % level - half) / half)
            rest = rest // level
        return torch.stack(digits, dim=1)

    @staticmethod
    def _per_channel(values: Sequence[float], latent: Tensor) -> Tensor:
        return latent.new_tensor(values).view(-1, *[1] * (latent.ndim - 2))
