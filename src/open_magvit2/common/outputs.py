"""Checks of what any tokenizer gives."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_indices(indices: Tensor, shape: Sequence[int], codebook_size: int, what: str) -> None:
    """Refuse indices that are no integers of a shape in [0, codebook_size) (this waits for the device).

    Raises:
        ValueError: naming what gave them.
    """
    check_form(indices, shape, what)
    low, high = (int(indices.min()), int(indices.max())) if indices.numel() else (0, 0)
    if low < 0 or high >= codebook_size:
        raise ValueError(f"{what} gives indices from {low} to {high}, expected 0 to {codebook_size - 1}")


def check_form(indices: Tensor, shape: Sequence[int], what: str) -> None:
    """The part of `check_indices` that does not look at values: integers, of the shape [B, *token_shape]."""
    if tuple(indices.shape) != tuple(shape):
        raise ValueError(
            f"{what} gives indices {tuple(indices.shape)}, expected {tuple(shape)}; several indices a position are the "
            "last axis, and a quantizer says their number as indices_per_position"
        )
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"{what} gives indices of {indices.dtype}, expected int64")
