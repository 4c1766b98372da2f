"""Lookup-free quantization (LFQ): the code of a latent is its signs, the index is those signs read as bits.

Source: MAGVIT-v2 (Yu et al., "Language Model Beats Diffusion", ICLR 2024, arXiv 2310.05737), section 3.1.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import above, at_least, integer
from open_magvit2.common.precision import at_least_float32
from open_magvit2.protocols import QuantizerOutput
from open_magvit2.quantizers import entropy
from open_magvit2.quantizers.layout import check_indices, straight_through

MAX_BITS = 36  # indices are int64, and a histogram of 2^36 codes is a list
BitOrder = Literal["least_significant_first", "most_significant_first"]


class LookupFreeQuantizer(nn.Module):
    """LFQ with 2^num_bits codes in {-1, +1}^num_bits: no parameters, no codebook, no search.

    Args:
        num_bits: K, 1 to 36; the latent has as many channels and the codebook 2^K codes.
        temperature: of the entropy penalty, T in logits 2 <z, c> / T.
        entropy_eps: inside the logarithm of the average distribution; 1e-5 is the published recipe.
        entropy_group_bits: None computes the exact codebook entropy (K <= 28) under the name `codebook_entropy`;
            a number computes instead the bound over groups of so many bits, as `codebook_entropy_bound`.
        entropy_over_ranks: entropy of the code distribution averaged over all DDP ranks instead of each rank's
            own (as published).
        bit_order: `least_significant_first` makes channel k bit k of the index; the published B checkpoints
            number their codes `most_significant_first`.

    Raises:
        ValueError: for values out of range, and for more bits than the exact entropy can enumerate.
    """

    # arguments that train the quantizer and leave its codes as they are: a continued run may change them
    training_arguments: ClassVar = ("temperature", "entropy_eps", "entropy_group_bits", "entropy_over_ranks")

    def __init__(
        self,
        num_bits: int = 18,
        temperature: float = 0.01,
        entropy_eps: float = 1e-5,
        entropy_group_bits: int | None = None,
        entropy_over_ranks: bool = False,
        bit_order: BitOrder = "least_significant_first",
    ) -> None:
        super().__init__()
        integer(1, MAX_BITS, num_bits=num_bits)
        above(0, temperature=temperature)
        at_least(0, entropy_eps=entropy_eps)
        if entropy_group_bits is not None:
            integer(1, entropy.MAX_EXACT_BITS, entropy_group_bits=entropy_group_bits)
        if bit_order not in ("least_significant_first", "most_significant_first"):
            raise ValueError(
                f"bit_order must be 'least_significant_first' or 'most_significant_first', got {bit_order!r}"
            )
        if entropy_group_bits is None and num_bits > entropy.MAX_EXACT_BITS:
            raise ValueError(
                f"num_bits = {num_bits}: the exact codebook entropy reaches to {entropy.MAX_EXACT_BITS} bits. "
                "Set entropy_group_bits, e.g. to 12, to train with the bound over groups of bits instead"
            )
        self.num_bits = self.latent_channels = num_bits
        self.codebook_size = 2**num_bits
        self.temperature = temperature
        self.entropy_eps = entropy_eps
        self.entropy_group_bits = entropy_group_bits
        self.entropy_over_ranks = entropy_over_ranks
        self.bit_order = bit_order

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the published B recipe; the bound has the weight of the entropy that it stands for."""
        name = "codebook_entropy" if self.entropy_group_bits is None else "codebook_entropy_bound"
        return {"sample_entropy": 0.1, name: -0.1, "commitment": 0.25}

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize with a straight-through gradient and compute the losses.

        Args:
            latent: float [B, K, h, w] (or any [B, K, ...]).

        Returns:
            codes [B, K, h, w] in {-1, +1} in the latent's dtype, indices int64 [B, h, w] and the unweighted losses
            `sample_entropy`, `codebook_entropy` (or `codebook_entropy_bound`), in nats, and
            `commitment` = mean (z - codes)^2, all float32.
        """
        codes, indices = self.quantize(latent)
        losses = self.entropies(latent)
        losses["commitment"] = (at_least_float32(latent) - codes).square().mean()
        return QuantizerOutput(straight_through(latent, codes), indices, losses)

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Signs of a latent [B, K, ...] (+1 where > 0, else -1), without gradient, and their indices [B, ...]."""
        if latent.ndim < 2 or latent.shape[1] != self.num_bits:
            raise ValueError(f"expected a latent [B, {self.num_bits}, ...], got {tuple(latent.shape)}")
        positive = latent.detach() > 0
        codes = torch.where(positive, 1.0, -1.0).to(latent.dtype)
        return codes, self._bits_to_indices(positive)

    def entropies(self, latent: Tensor) -> dict[str, Tensor]:
        """The entropy terms of a latent [B, K, ...], each token of the batch one sample."""
        tokens = latent.movedim(1, -1).reshape(-1, self.num_bits)
        options = (self.temperature, self.entropy_eps, self.entropy_over_ranks)
        if self.entropy_group_bits is None:
            sample, codebook = entropy.entropy_penalty(tokens, *options)
            return {"sample_entropy": sample, "codebook_entropy": codebook}
        bound = entropy.codebook_entropy_bound(tokens, self.entropy_group_bits, *options)
        sample = entropy.sample_entropy(at_least_float32(tokens), self.temperature)
        return {"sample_entropy": sample, "codebook_entropy_bound": bound}

    def codes_to_indices(self, codes: Tensor) -> Tensor:
        """Indices int64 [B, ...] in [0, 2^K) of codes [B, K, ...]; positive entries are bits of value 1."""
        if codes.ndim < 2 or codes.shape[1] != self.num_bits:
            raise ValueError(f"expected codes [B, {self.num_bits}, ...], got {tuple(codes.shape)}")
        return self._bits_to_indices(codes > 0)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes float32 [B, K, ...] in {-1, +1} of indices int64 [B, ...] in [0, 2^K).

        Indices outside the codebook would decode to a wrong picture: they are refused (this waits for the device).
        """
        check_indices(indices, self.codebook_size)
        shifts = self._shifts(indices.device).view(-1, *[1] * (indices.ndim - 1))
        bits = torch.bitwise_right_shift(indices.to(torch.int64).unsqueeze(1), shifts) & 1
        return bits.to(torch.float32).mul_(2).sub_(1)

    def _bits_to_indices(self, bits: Tensor) -> Tensor:
        shifts = self._shifts(bits.device).view(-1, *[1] * (bits.ndim - 2))
        return torch.bitwise_left_shift(bits.to(torch.int64), shifts).sum(dim=1)

    def _shifts(self, device: torch.device) -> Tensor:
        """The power of two that each channel stands for, int64 [K]."""
        shifts = torch.arange(self.num_bits, device=device)
        return shifts if self.bit_order == "least_significant_first" else shifts.flip(0)
