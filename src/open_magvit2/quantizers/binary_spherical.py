"""Binary spherical quantization (BSQ): project a latent onto the unit sphere and keep its signs.

Source: Zhao et al., "Image and Video Tokenization with Binary Spherical Quantization", ICLR 2025, arXiv 2406.07548.
The codes are the 2^K corners (+-1 / sqrt(K))^K of the sphere, so that the error is bounded and no commitment is needed.
With logits tau <u, c>, the soft assignment of a point u of the sphere (eq. 8) is a product over bits,

    p(c_k = +1 | u) = sigmoid(2 tau u_k / sqrt(K)),

which is LFQ's at 4 z / T with z = u / sqrt(K) and T = 2 / tau: both entropies are LFQ's.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common.arguments import above
from open_magvit2.common.precision import at_least_float32
from open_magvit2.protocols import QuantizerOutput
from open_magvit2.quantizers.layout import straight_through
from open_magvit2.quantizers.lookup_free import BitOrder, LookupFreeQuantizer


class BinarySphericalQuantizer(nn.Module):
    """BSQ with 2^num_bits codes on the unit sphere in K = num_bits dimensions.

    Args:
        num_bits: K, 1 to 36.
        inverse_temperature: tau of the soft assignment; 100 is our choice, at which the bits of random points of 18
            dimensions are nearly certain.
        entropy_eps: inside the logarithm of the average distribution.
        entropy_group_bits: None for the exact codebook entropy (K <= 28), `codebook_entropy`; a number for the bound
            over groups of so many bits, `codebook_entropy_bound`. 1 treats the bits as independent.
        bit_order, entropy_over_ranks: see `LookupFreeQuantizer`.

    Raises:
        ValueError: for values out of range.
    """

    training_arguments: ClassVar = (
        "inverse_temperature",
        "entropy_eps",
        "entropy_group_bits",
        "entropy_over_ranks",
    )

    def __init__(
        self,
        num_bits: int = 18,
        inverse_temperature: float = 100.0,
        entropy_eps: float = 0.0,
        entropy_group_bits: int | None = None,
        bit_order: BitOrder = "least_significant_first",
        entropy_over_ranks: bool = False,
    ) -> None:
        super().__init__()
        above(0, inverse_temperature=inverse_temperature)
        self.signs = LookupFreeQuantizer(
            num_bits, 2.0 / inverse_temperature, entropy_eps, entropy_group_bits, entropy_over_ranks, bit_order
        )
        self.num_bits = self.latent_channels = num_bits
        self.codebook_size = 2**num_bits
        self.inverse_temperature = inverse_temperature
        self.entropy_eps = entropy_eps
        self.entropy_group_bits = entropy_group_bits
        self.bit_order = bit_order
        self.entropy_over_ranks = entropy_over_ranks

    @property
    def loss_weights(self) -> dict[str, float]:
        """E H(p) - H(E p) is minimised, as in the paper; the weight is that of our LFQ recipe."""
        name = "codebook_entropy" if self.entropy_group_bits is None else "codebook_entropy_bound"
        return {"sample_entropy": 0.1, name: -0.1}

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent float [B, K, *grid] of any length.

        Returns:
            codes [B, K, *grid] in {-1, +1} / sqrt(K), with a straight-through gradient to the point on the sphere;
            indices int64 [B, *grid]; losses `sample_entropy` and `codebook_entropy` (or its bound) in nats, float32.
        """
        unit = F.normalize(at_least_float32(latent), dim=1)
        signs, indices = self.signs.quantize(unit)
        scale = self.num_bits**-0.5
        codes = straight_through(unit, signs * scale).to(latent.dtype)
        return QuantizerOutput(codes, indices, self.signs.entropies(unit * scale))

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, K, *grid] and indices [B, *grid] of a latent, without gradient; its length does not matter."""
        signs, indices = self.signs.quantize(latent)
        return signs * self.num_bits**-0.5, indices

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes float32 [B, K, *grid] of indices int64 [B, *grid], whose bits are in the order of `bit_order`.

        Raises:
            ValueError: for indices that are no integers, or outside the codebook.
        """
        return self.signs.indices_to_codes(indices) * self.num_bits**-0.5
