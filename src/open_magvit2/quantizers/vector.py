"""Vector quantization (VQ): a latent vector becomes the nearest vector of a learned codebook.

Sources: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, arXiv 1711.00937 (losses, eq. 3;
moving averages, appendix A.1); Yu et al., "Vector-quantized Image Modeling with Improved VQGAN", arXiv 2110.04627
(normalised codes of few dimensions); Dhariwal et al., "Jukebox", arXiv 2005.00341 (restart of unused codes).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common import distributed
from open_magvit2.common.arguments import at_least, integer, within
from open_magvit2.common.precision import at_least_float32, check_can_average, full_precision
from open_magvit2.protocols import QuantizerOutput
from open_magvit2.quantizers.layout import check_indices, indices_to_grid, straight_through, to_grid, to_vectors

_CHUNK_ELEMENTS = 2**26  # of a chunk of the distances [N, codebook_size]: 256 MiB in float32
_SMOOTHING = 1e-5  # of the moving cluster sizes (Laplace), as in the authors' code


class VectorQuantizer(nn.Module):
    """VQ with a straight-through gradient; the codebook learns by its loss or as a moving average of its latents.

    Args:
        codebook_size: number of codes, V.
        latent_channels: C, of the latent and of a code.
        normalized: compare and return vectors of length 1; the latent is normalised as well.
        normalized_latent: normalise the latent alone, and leave the codes as they are (OmniTokenizer).
        ema_decay: None trains the codebook with the loss `codebook`; a number in (0, 1), 0.99 in the paper, replaces it
            by exponential moving averages of the latents that chose each code. It is the decay of a training step: a
            step in micro-batches sets `step_fraction`.
        restart_below: with `ema_decay`, a code whose moving number of latents a step falls below this is replaced by a
            random latent of the batch; 0 never does.

    Attributes:
        step_fraction: share of a training step's batch that the next latent is; 1 for the whole. A step in m
            micro-batches moves the averages m times with 1 / m, and so as far as one that is not split.

    Raises:
        ValueError: for values out of range, or a restart without moving averages; in `forward`, for averages in 16
            bits, which would stand still.
    """

    training_arguments: ClassVar = ("ema_decay", "restart_below")

    def __init__(
        self,
        codebook_size: int = 16384,
        latent_channels: int = 8,
        normalized: bool = False,
        ema_decay: float | None = None,
        restart_below: float = 0.0,
        normalized_latent: bool = False,
    ) -> None:
        super().__init__()
        integer(1, codebook_size=codebook_size, latent_channels=latent_channels)
        at_least(0, restart_below=restart_below)
        if ema_decay is not None:
            within(0, 1, ema_decay=ema_decay)
        elif restart_below > 0:
            raise ValueError(f"restart_below = {restart_below} counts by moving averages: set ema_decay, e.g. to 0.99")
        self.codebook_size = codebook_size
        self.latent_channels = latent_channels
        self.normalized = normalized
        self.normalized_latent = normalized_latent
        self.ema_decay = ema_decay
        self.restart_below = restart_below
        self.step_fraction = 1.0
        codebook = torch.empty(codebook_size, latent_channels).uniform_(-1 / codebook_size, 1 / codebook_size)
        codebook = F.normalize(codebook, dim=1) if normalized else codebook
        self.codebook = nn.Parameter(codebook, requires_grad=ema_decay is None)
        if ema_decay is not None:
            self.register_buffer("cluster_sizes", torch.ones(codebook_size))
            self.register_buffer("cluster_sums", codebook.clone())

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the paper: 1 for the codebook, 0.25 for the commitment."""
        return {"commitment": 0.25} | ({} if self.ema_decay is not None else {"codebook": 1.0})

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent float [B, C, *grid]; in training mode with `ema_decay`, move the codebook as well.

        Returns:
            codes [B, C, *grid] with a straight-through gradient; indices int64 [B, *grid]; losses `commitment` = mean
            (z - sg[e])^2 and, without moving averages, `codebook` = mean (sg[z] - e)^2, float32.
        """
        vectors = self._vectors(latent)
        with full_precision(latent.device.type):
            indices = self._nearest(vectors.detach())
        codes = self._codes(indices)
        losses = {"commitment": (vectors - codes.detach()).square().mean()}
        if self.ema_decay is None:
            losses["codebook"] = (vectors.detach() - codes).square().mean()
        elif self.training:
            self._move_codebook(vectors.detach(), indices)
        codes = to_grid(straight_through(vectors, codes), latent).to(latent.dtype)
        return QuantizerOutput(codes, indices_to_grid(indices, latent), losses)

    @torch.no_grad()
    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, C, *grid] and indices [B, *grid] of a latent, without gradient."""
        with full_precision(latent.device.type):
            indices = self._nearest(self._vectors(latent))
        return to_grid(self._codes(indices), latent).to(latent.dtype), indices_to_grid(indices, latent)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes [B, C, *grid], in the codebook's dtype, of indices int64 [B, *grid].

        Raises:
            ValueError: for indices that are no integers, or outside the codebook.
        """
        check_indices(indices, self.codebook_size)
        return self._codes(indices.to(torch.int64)).movedim(-1, 1)

    def _vectors(self, latent: Tensor) -> Tensor:
        vectors = at_least_float32(to_vectors(latent, self.latent_channels))
        return F.normalize(vectors, dim=1) if self.normalized or self.normalized_latent else vectors

    def _codes(self, indices: Tensor) -> Tensor:
        codes = F.embedding(indices, self.codebook)
        return F.normalize(codes, dim=-1) if self.normalized else codes

    def _nearest(self, vectors: Tensor) -> Tensor:
        """Index [N] of the nearest code: argmin |e|^2 - 2 <z, e>, in chunks of tokens."""
        codebook = F.normalize(self.codebook.detach(), dim=1) if self.normalized else self.codebook.detach()
        codebook = codebook.to(vectors.dtype)
        lengths = codebook.square().sum(dim=1)
        chunks = vectors.split(max(1, _CHUNK_ELEMENTS // self.codebook_size))
        return torch.cat([torch.addmm(lengths, chunk, codebook.T, alpha=-2).argmin(dim=1) for chunk in chunks])

    @torch.no_grad()
    def _move_codebook(self, vectors: Tensor, indices: Tensor) -> None:
        """Move the averages, over the latents of all ranks; then restart the codes that nobody uses."""
        check_can_average(self.cluster_sums, "the codebook")
        ones = torch.ones_like(vectors[:, 0])
        sizes = distributed.all_reduce_sum(torch.zeros_like(self.cluster_sizes).index_add_(0, indices, ones))
        sums = distributed.all_reduce_sum(torch.zeros_like(self.cluster_sums).index_add_(0, indices, vectors))
        weight = 1 - self.ema_decay**self.step_fraction
        sizes = self.cluster_sizes.lerp(sizes / self.step_fraction, weight)  # what a whole step would count
        sums = self.cluster_sums.lerp(sums / self.step_fraction, weight)
        if self.restart_below > 0:
            unused = sizes < self.restart_below
            chosen = vectors[torch.randint(len(vectors), (self.codebook_size,), device=vectors.device)]
            chosen = distributed.broadcast(chosen)  # every rank keeps the same codebook
            sums = torch.where(unused[:, None], chosen * self.restart_below, sums)
            sizes = torch.where(unused, self.restart_below, sizes)
        total = sizes.sum()
        smoothed = (sizes + _SMOOTHING) / (total + self.codebook_size * _SMOOTHING) * total
        is_finite = sums.isfinite().all()  # the training skips a step that is not; the codebook must not keep it
        for kept, moved in (
            (self.cluster_sizes, sizes),
            (self.cluster_sums, sums),
            (self.codebook, sums / smoothed[:, None]),
        ):
            kept.copy_(torch.where(is_finite, moved, kept))
