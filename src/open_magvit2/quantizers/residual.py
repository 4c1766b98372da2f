"""Several LFQ indices a position: residual quantization in levels, and grouped quantization of slices of the channels.

Sources: residual quantization, Lee et al., "Autoregressive Image Generation using Residual Quantization", CVPR 2022,
arXiv 2203.01941; groups of channels as in product quantization (Jegou et al., 2011). Each level or group is a
`LookupFreeQuantizer` with its exact entropy; entropies are averaged, in nats a level or group.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.common.precision import at_least_float32
from open_magvit2.protocols import QuantizerOutput
from open_magvit2.quantizers.layout import straight_through
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


class ResidualLookupFreeQuantizer(nn.Module):
    """Level l quantizes what the levels before it left over, to {-1, +1}^K / 2^l; a position has num_levels indices.

    Args:
        num_bits: K of each level, 1 to 28; the latent has as many channels.
        num_levels: L.
        temperature, entropy_eps, entropy_over_ranks: of the entropy penalty, as in `LookupFreeQuantizer`; a level's
            residual is scaled by 2^l before.

    Raises:
        ValueError: for values out of range.
    """

    training_arguments: ClassVar = ("temperature", "entropy_eps", "entropy_over_ranks")

    def __init__(
        self,
        num_bits: int = 18,
        num_levels: int = 2,
        temperature: float = 0.01,
        entropy_eps: float = 1e-5,
        entropy_over_ranks: bool = False,
    ) -> None:
        super().__init__()
        integer(1, num_levels=num_levels)
        self.level = LookupFreeQuantizer(num_bits, temperature, entropy_eps, entropy_over_ranks=entropy_over_ranks)
        self.num_bits = self.latent_channels = num_bits
        self.num_levels = self.indices_per_position = num_levels
        self.temperature = temperature
        self.entropy_eps = entropy_eps
        self.entropy_over_ranks = entropy_over_ranks
        self.codebook_size = 2**num_bits

    @property
    def loss_weights(self) -> dict[str, float]:
        """LFQ's."""
        return self.level.loss_weights

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent float [B, K, *grid].

        Returns:
            codes [B, K, *grid], the sum of the levels' codes; indices int64 [B, *grid, L]; losses `sample_entropy` and
            `codebook_entropy`, means over levels in nats, and `commitment` = mean over levels of mean (residual after
            it)^2. All residuals pass their gradient to the latent.
        """
        exact, indices, losses = at_least_float32(latent), [], []
        codes = torch.zeros_like(exact)
        for level in range(self.num_levels):
            residual = exact - codes
            signs, index = self.level.quantize(residual)
            codes = codes + signs * 2.0**-level
            entropies = self.level.entropies(residual * 2.0**level)
            losses.append(entropies | {"commitment": (exact - codes).square().mean()})
            indices.append(index)
        codes = straight_through(latent, codes.to(latent.dtype))
        return QuantizerOutput(codes, torch.stack(indices, dim=-1), _means(losses))

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, K, *grid] and indices [B, *grid, L] of a latent, without gradient."""
        exact, indices = at_least_float32(latent.detach()), []
        codes = torch.zeros_like(exact)
        for level in range(self.num_levels):
            signs, index = self.level.quantize(exact - codes)
            codes = codes + signs * 2.0**-level
            indices.append(index)
        return codes.to(latent.dtype), torch.stack(indices, dim=-1)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes float32 [B, K, *grid] of indices int64 [B, *grid, L].

        Raises:
            ValueError: for another number of levels, or indices outside the codebook.
        """
        _check_last_axis(indices, self.num_levels)
        codes = [self.level.indices_to_codes(index) * 2.0**-level for level, index in enumerate(indices.unbind(-1))]
        return torch.stack(codes).sum(dim=0)


class GroupedLookupFreeQuantizer(nn.Module):
    """LFQ of num_groups slices of the channels: K bits a position as G indices of K / G bits, for K above 18.

    Args:
        num_bits: K, a multiple of num_groups; the latent has as many channels.
        num_groups: G; K / G is 1 to 28.
        temperature, entropy_eps, entropy_over_ranks: of the entropy penalty of each group, as in `LookupFreeQuantizer`.

    Raises:
        ValueError: for values out of range, or groups that do not divide the bits.
    """

    training_arguments: ClassVar = ("temperature", "entropy_eps", "entropy_over_ranks")

    def __init__(
        self,
        num_bits: int = 36,
        num_groups: int = 2,
        temperature: float = 0.01,
        entropy_eps: float = 1e-5,
        entropy_over_ranks: bool = False,
    ) -> None:
        super().__init__()
        integer(1, num_bits=num_bits, num_groups=num_groups)
        if num_bits % num_groups:
            raise ValueError(f"num_bits must be a multiple of num_groups = {num_groups}, got {num_bits}")
        self.group = LookupFreeQuantizer(
            num_bits // num_groups, temperature, entropy_eps, entropy_over_ranks=entropy_over_ranks
        )
        self.num_bits = self.latent_channels = num_bits
        self.num_groups = self.indices_per_position = num_groups
        self.temperature = temperature
        self.entropy_eps = entropy_eps
        self.entropy_over_ranks = entropy_over_ranks
        self.codebook_size = self.group.codebook_size

    @property
    def loss_weights(self) -> dict[str, float]:
        """LFQ's."""
        return self.group.loss_weights

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent float [B, K, *grid].

        Returns:
            codes [B, K, *grid] in {-1, +1}; indices int64 [B, *grid, G]; losses `sample_entropy`, `codebook_entropy`
            and `commitment` as LFQ's, means over groups.
        """
        outputs = [self.group(part) for part in self._slices(latent)]
        codes = torch.cat([output.codes for output in outputs], dim=1)
        indices = torch.stack([output.indices for output in outputs], dim=-1)
        return QuantizerOutput(codes, indices, _means([output.losses for output in outputs]))

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Signs [B, K, *grid] and indices [B, *grid, G] of a latent, without gradient."""
        codes, indices = zip(*(self.group.quantize(part) for part in self._slices(latent)), strict=True)
        return torch.cat(codes, dim=1), torch.stack(indices, dim=-1)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes float32 [B, K, *grid] of indices int64 [B, *grid, G].

        Raises:
            ValueError: for another number of groups, or indices outside the codebook.
        """
        _check_last_axis(indices, self.num_groups)
        return torch.cat([self.group.indices_to_codes(index) for index in indices.unbind(-1)], dim=1)

    def _slices(self, latent: Tensor) -> tuple[Tensor, ...]:
        if latent.ndim < 2 or latent.shape[1] != self.num_bits:
            raise ValueError(f"expected a latent [B, {self.num_bits}, ...], got {tuple(latent.shape)}")
        return latent.chunk(self.num_groups, dim=1)


def _means(losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([terms[name] for terms in losses]).mean() for name in losses[0]}


def _check_last_axis(indices: Tensor, expected: int) -> None:
    if indices.ndim < 2 or indices.shape[-1] != expected:
        raise ValueError(f"expected indices [B, ..., {expected}], got {tuple(indices.shape)}")
