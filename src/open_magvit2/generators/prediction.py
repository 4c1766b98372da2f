"""Predictions of a generator in a training step, and means over them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Prediction(NamedTuple):
    """A generator's logits for a micro-batch of sub-tokens [B, N, G], and which of these count."""

    logits: Sequence[Tensor]  # a group each, [B, N, 2^bits]
    weight: Tensor | None = None  # float [B, N, G], of each sub-token in the loss; None counts all alike
    in_metrics: Tensor | None = None  # bool [B, N, G], whose losses and accuracies are logged; None for all


def of_group(values: Tensor | None, group: int) -> Tensor | None:
    """One group [B, N] of values [B, N, G]."""
    return None if values is None else values[..., group]


def mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean; 0 where nothing has a weight."""
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(torch.finfo(values.dtype).tiny)
