"""Gumbel-softmax quantization: a latent chooses its code by logits, with noise in training (DALL-E, VQGAN f8).

Sources: Jang et al., "Categorical Reparameterization with Gumbel-Softmax", arXiv 1611.01144, equation 2; Ramesh et al.,
"Zero-Shot Text-to-Image Generation", arXiv 2102.12092 (divergence from the uniform distribution).
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common.arguments import above, integer
from open_magvit2.common.precision import at_least_float32, full_precision
from open_magvit2.protocols import QuantizerOutput
from open_magvit2.quantizers.layout import check_indices, indices_to_grid, to_grid, to_vectors


class GumbelQuantizer(nn.Module):
    """The code of the largest logit; in training mode, of the largest logit plus Gumbel noise.

    The gradient is that of the mixture softmax((logits + noise) / temperature) of all codes.

    Args:
        codebook_size: number of codes, V.
        latent_channels: C, of the latent and of a code.
        temperature: of the mixture; `training.annealing.TemperatureAnnealing` lowers it during training.

    Raises:
        ValueError: for values out of range.
    """

    # The default of taming-transformers' layer. Its GumbelVQ trains with 1e-8 and a temperature that falls.
    loss_weights: ClassVar = {"prior_divergence": 5e-4}
    training_arguments: ClassVar = ("temperature",)

    def __init__(self, codebook_size: int = 8192, latent_channels: int = 256, temperature: float = 1.0) -> None:
        super().__init__()
        integer(1, codebook_size=codebook_size, latent_channels=latent_channels)
        above(0, temperature=temperature)
        self.codebook_size = codebook_size
        self.latent_channels = latent_channels
        self.temperature = temperature
        self.projection = nn.Conv2d(latent_channels, codebook_size, kernel_size=1)
        self.codebook = nn.Parameter(torch.empty(codebook_size, latent_channels).normal_())

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent float [B, C, *grid].

        Returns:
            codes [B, C, *grid]; indices int64 [B, *grid]; the loss `prior_divergence` = mean of KL(softmax(logits) ||
            uniform) in nats, float32.
        """
        with full_precision(latent.device.type):
            logits = self._logits(latent)
            if self.training:
                chosen = F.gumbel_softmax(logits, self.temperature, hard=True, dim=1)
            else:
                chosen = F.one_hot(logits.argmax(dim=1), self.codebook_size).to(logits.dtype)
            codes = chosen @ self.codebook.to(logits.dtype)
            log_probabilities = logits.log_softmax(dim=1)
            entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1).mean()
        losses = {"prior_divergence": math.log(self.codebook_size) - entropy}
        indices = indices_to_grid(chosen.detach().argmax(dim=1), latent)
        return QuantizerOutput(to_grid(codes, latent).to(latent.dtype), indices, losses)

    @torch.no_grad()
    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, C, *grid] and indices [B, *grid] of a latent, without noise and gradient."""
        with full_precision(latent.device.type):
            indices = self._logits(latent).argmax(dim=1)
        return to_grid(self.codebook[indices], latent).to(latent.dtype), indices_to_grid(indices, latent)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes [B, C, *grid], in the codebook's dtype, of indices int64 [B, *grid].

        Raises:
            ValueError: for indices that are no integers, or outside the codebook.
        """
        check_indices(indices, self.codebook_size)
        return F.embedding(indices.to(torch.int64), self.codebook).movedim(-1, 1)

    def _logits(self, latent: Tensor) -> Tensor:
        vectors = at_least_float32(to_vectors(latent, self.latent_channels))
        weight = self.projection.weight.flatten(1)
        return F.linear(vectors, weight.to(vectors.dtype), self.projection.bias.to(vectors.dtype))
