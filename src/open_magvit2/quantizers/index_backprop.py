"""Index backpropagation quantization (IBQ): the gradient reaches every code through the softmax over all of them.

Source: Shi et al., "Scalable Image Tokenization with Index Backpropagation Quantization", ICCV 2025, arXiv 2412.02692,
algorithm 1. With logits l = C z over the codebook C [V, D] and p = softmax(l), the code is one-hot(argmax p) C in the
forward pass and p C in the gradient. The reference builds [N, V] matrices; here they are visited in chunks of tokens
and computed again in the backward pass, so that 2^18 codes fit.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from open_magvit2.common import distributed
from open_magvit2.common.arguments import above, at_least, integer
from open_magvit2.common.precision import at_least_float32, full_precision
from open_magvit2.protocols import QuantizerOutput
from open_magvit2.quantizers.layout import check_indices, indices_to_grid, to_grid, to_vectors

_CHUNK_ELEMENTS = 2**24  # of a chunk of the logits [N, V]: 64 MiB in float32


class IndexBackpropagationQuantizer(nn.Module):
    """IBQ with a learned codebook.

    Args:
        codebook_size: V.
        latent_channels: D, of the latent and of a code; 256 by default.
        temperature: T of the entropies, which are those of softmax(l / T); 0.01 by default, as in LFQ.
        entropy_eps: inside the logarithm of the average distribution.
        entropy_over_ranks: as in `LookupFreeQuantizer`.

    Raises:
        ValueError: for values out of range.
    """

    # the first three as in the reference; the weight of the entropies is our choice
    loss_weights: ClassVar = {
        "codebook": 0.25,
        "commitment": 1.0,
        "quantization": 1.0,
        "sample_entropy": 0.05,
        "codebook_entropy": -0.05,
    }
    training_arguments: ClassVar = ("temperature", "entropy_eps", "entropy_over_ranks")

    def __init__(
        self,
        codebook_size: int = 16384,
        latent_channels: int = 256,
        temperature: float = 0.01,
        entropy_eps: float = 1e-5,
        entropy_over_ranks: bool = False,
    ) -> None:
        super().__init__()
        integer(1, codebook_size=codebook_size, latent_channels=latent_channels)
        above(0, temperature=temperature)
        at_least(0, entropy_eps=entropy_eps)
        self.codebook_size = codebook_size
        self.latent_channels = latent_channels
        self.temperature = temperature
        self.entropy_eps = entropy_eps
        self.entropy_over_ranks = entropy_over_ranks
        self.codebook = nn.Parameter(torch.randn(codebook_size, latent_channels))

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent float [B, D, *grid].

        Returns:
            codes [B, D, *grid], whose gradient reaches latent and codebook through the softmax; indices int64
            [B, *grid]; float32 losses, with the code q = p C of the gradient and e = C[index]: `quantization` = mean
            (q - z)^2, `commitment` = mean (z - sg[e])^2, `codebook` = mean (sg[z] - e)^2, and the entropies
            `sample_entropy` = E H(p_T) and `codebook_entropy` = H(E p_T), p_T = softmax(l / T), in nats.
        """
        vectors = at_least_float32(to_vectors(latent, self.latent_channels))
        with full_precision(latent.device.type):
            codes, indices, sample, average = _IndexBackpropagation.apply(
                vectors, self.codebook, self.temperature, self.entropy_eps, self.entropy_over_ranks
            )
        hard = F.embedding(indices, self.codebook)
        losses = {
            "quantization": (codes - vectors).square().mean(),
            "commitment": (vectors - hard.detach()).square().mean(),
            "codebook": (vectors.detach() - hard).square().mean(),
            "sample_entropy": sample,
            "codebook_entropy": average,
        }
        return QuantizerOutput(to_grid(codes, latent).to(latent.dtype), indices_to_grid(indices, latent), losses)

    @torch.no_grad()
    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, D, *grid] and indices [B, *grid] of a latent, without gradient."""
        vectors = at_least_float32(to_vectors(latent, self.latent_channels))
        codebook = self.codebook.to(vectors.dtype)
        with full_precision(latent.device.type):
            indices = torch.cat([(chunk @ codebook.T).argmax(dim=1) for chunk in _chunks(vectors, codebook)])
        return to_grid(self.codebook[indices], latent).to(latent.dtype), indices_to_grid(indices, latent)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes [B, D, *grid], in the codebook's dtype, of indices int64 [B, *grid].

        Raises:
            ValueError: for indices that are no integers, or outside the codebook.
        """
        check_indices(indices, self.codebook_size)
        return F.embedding(indices.to(torch.int64), self.codebook).movedim(-1, 1)


class _IndexBackpropagation(torch.autograd.Function):
    """(codes [N, D], indices [N], E H(p_T), H(E p_T)) of vectors [N, D] and a codebook [V, D], in chunks of tokens.

    The gradients with respect to the logits of one token, with s = C dL/dcode:
        of the code      p (s - <p, s>)
        of E H(p_T)      -p_T (log p_T + H(p_T)) / (N T)
        of H(E p_T)      p_T (w - <p_T, w>) / (N T),    w = dH/dP of the average P = E p_T.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, codebook: Tensor, temperature: float, eps: float, over_ranks: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        codebook = codebook.to(vectors.dtype)
        indices, sample = [], vectors.new_zeros(())
        average = vectors.new_zeros(len(codebook))
        for chunk in _chunks(vectors, codebook):
            logits = chunk @ codebook.T
            indices.append(logits.argmax(dim=1))
            log_sharp = (logits / temperature).log_softmax(dim=1)
            sharp = log_sharp.exp()
            sample -= (sharp * log_sharp).sum()
            average += sharp.sum(dim=0)
        average /= len(vectors)
        if over_ranks:
            distributed.all_reduce_mean(average)
        shifted = average + eps
        log_shifted = shifted.clamp_min(torch.finfo(shifted.dtype).tiny).log()
        indices = torch.cat(indices)
        ctx.save_for_backward(vectors, codebook, indices, average)
        ctx.options = temperature, eps
        ctx.mark_non_differentiable(indices)
        return codebook[indices], indices, sample / len(vectors), -(average * log_shifted).sum()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_codes: Tensor, _: None, grad_sample: Tensor, grad_average: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        vectors, codebook, indices, average = ctx.saved_tensors
        temperature, eps = ctx.options
        shifted = (average + eps).clamp_min(torch.finfo(average.dtype).tiny)
        of_average = -(shifted.log() + average / shifted)
        grad_codebook = torch.zeros_like(codebook).index_add_(0, indices, grad_codes)
        grad_vectors = []
        with full_precision(vectors.device.type):
            for chunk, grad in zip(_chunks(vectors, codebook), _chunks(grad_codes, codebook), strict=True):
                logits = chunk @ codebook.T
                grad_logits = _through_softmax(logits.softmax(dim=1), grad @ codebook.T)
                log_sharp = (logits / temperature).log_softmax(dim=1)
                mixed = grad_average * of_average - grad_sample * log_sharp  # both entropies have the same form
                grad_logits += _through_softmax(log_sharp.exp(), mixed) / (len(vectors) * temperature)
                grad_vectors.append(grad_logits @ codebook)
                grad_codebook += grad_logits.T @ chunk
        return torch.cat(grad_vectors), grad_codebook, None, None, None


def _through_softmax(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """p (g - <p, g>): the gradient [n, V] with respect to the logits of p."""
    return probabilities * (gradient - (probabilities * gradient).sum(dim=1, keepdim=True))


def _chunks(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, ...]:
    return vectors.split(max(1, _CHUNK_ELEMENTS // len(codebook)))
