"""Between a latent [B, C, *grid] and a list of vectors [N, C], and the check of indices; shared by the quantizers."""

import torch
from torch import Tensor


def to_vectors(latent: Tensor, channels: int) -> Tensor:
    """The vectors [N, C] of a latent [B, C, *grid], N = B times the positions of the grid, in raster order.

    Raises:
        ValueError: for another number of channels.
    """
    if latent.ndim < 2 or latent.shape[1] != channels:
        raise ValueError(f"expected a latent [B, {channels}, ...], got {tuple(latent.shape)}")
    return latent.movedim(1, -1).reshape(-1, channels)


def to_grid(vectors: Tensor, latent: Tensor) -> Tensor:
    """The inverse of `to_vectors`: vectors [N, C] -> [B, C, *grid], with the grid of a latent."""
    return vectors.reshape(latent.shape[0], *latent.shape[2:], vectors.shape[-1]).movedim(-1, 1)


def indices_to_grid(indices: Tensor, latent: Tensor) -> Tensor:
    """Indices [N] of a latent's vectors -> [B, *grid]."""
    return indices.view(latent.shape[0], *latent.shape[2:])


def check_indices(indices: Tensor, codebook_size: int) -> None:
    """Refuse indices that are no integers, or outside the codebook (this waits for the device; no part of an export).

    Raises:
        ValueError: with the range that was found.
    """
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"expected integer indices, got {indices.dtype}")
    if torch.compiler.is_exporting():
        return
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= codebook_size):
        raise ValueError(f"indices must lie in [0, {codebook_size}), got [{int(indices.min())}, {int(indices.max())}]")


def straight_through(latent: Tensor, codes: Tensor) -> Tensor:
    """Exactly the codes in the forward pass; in the backward pass their gradient goes to the latent unchanged."""
    return codes.detach() + (latent - latent.detach())  # latent + (codes - latent) would round large latents
