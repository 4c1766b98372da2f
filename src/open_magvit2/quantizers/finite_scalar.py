"""Finite scalar quantization (FSQ): every channel is bounded and rounded to a few levels; no codebook, no losses.

Source: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR 2024, arXiv 2309.15505, section 3.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.common.precision import at_least_float32
from open_magvit2.protocols import QuantizerOutput
from open_magvit2.quantizers.layout import check_indices, indices_to_grid, straight_through, to_grid, to_vectors

# The bound exceeds half of the range by this share. The authors' code has 1 - 1e-3, and tan in the place of atanh: for
# 3 to 16 levels, its edges between levels lie within 0.02 of these in the latent.
_MARGIN = 1e-3


class FiniteScalarQuantizer(nn.Module):
    """FSQ with prod(levels) codes; channel i takes levels[i] values, evenly spaced in [-1, 1].

    Args:
        levels: of each channel, at least 2; the paper advises 5 or more and has (8, 6, 5) for 2^8 codes,
            (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) for 2^12, (8, 8, 8, 6, 5) for 2^14, (8, 8, 8, 5, 5, 5) for 2^16.

    Raises:
        ValueError: for fewer than 2 levels, or more codes than an int64 index holds.
    """

    loss_weights: ClassVar[dict[str, float]] = {}

    def __init__(self, levels: Sequence[int] = (8, 8, 8, 5, 5, 5)) -> None:
        super().__init__()
        integer(2, levels=levels)
        if math.prod(levels) > 2**62:
            raise ValueError(f"levels must give at most 2^62 codes, got {list(levels)}")
        self.levels = tuple(levels)
        self.latent_channels = len(levels)
        self.codebook_size = math.prod(levels)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent float [B, C, *grid]: codes [B, C, *grid] in [-1, 1], indices int64 [B, *grid], no losses.

        The rounding passes its gradient on unchanged; the bound is differentiated as usual.
        """
        bounded = self._bound(at_least_float32(to_vectors(latent, self.latent_channels)))
        digits = bounded.detach().round()
        codes = straight_through(bounded, digits) / self._half_width(latent)
        return QuantizerOutput(to_grid(codes, latent).to(latent.dtype), self._indices(digits, latent), {})

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, C, *grid] and indices [B, *grid] of a latent, without gradient."""
        digits = self._bound(at_least_float32(to_vectors(latent.detach(), self.latent_channels))).round()
        codes = to_grid(digits / self._half_width(latent), latent)
        return codes.to(latent.dtype), self._indices(digits, latent)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes float32 [B, C, *grid] of indices int64 [B, *grid]; the first channel is the least significant digit.

        Raises:
            ValueError: for indices that are no integers, or outside the codebook.
        """
        check_indices(indices, self.codebook_size)
        half = self._half_width(indices)
        levels = torch.tensor(self.levels, device=indices.device)
        digits = (indices.to(torch.int64).unsqueeze(-1) // self._basis(indices)) % levels
        return ((digits - half).to(torch.float32) / half).movedim(-1, 1)

    def _bound(self, vectors: Tensor) -> Tensor:
        """Squash [N, C] so that rounding gives levels[i] integers, -(L // 2) ... (L - 1) // 2."""
        levels = torch.tensor(self.levels, dtype=vectors.dtype, device=vectors.device)
        half = (levels - 1) * (1 + _MARGIN) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(vectors.dtype)
        return (vectors + (offset / half).atanh()).tanh() * half - offset

    def _indices(self, digits: Tensor, latent: Tensor) -> Tensor:
        indices = ((digits.to(torch.int64) + self._half_width(latent)) * self._basis(latent)).sum(dim=-1)
        return indices_to_grid(indices, latent)

    def _half_width(self, like: Tensor) -> Tensor:
        return torch.tensor([level // 2 for level in self.levels], device=like.device)

    def _basis(self, like: Tensor) -> Tensor:
        return torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))], device=like.device)
