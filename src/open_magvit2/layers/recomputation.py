"""Memory for time: what the backward pass needs is computed again there instead of being kept.

(Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.) Two levels, on PyTorch's checkpoints that do not
re-enter autograd. They save the tensors that enter a function, and when the backward pass asks for one saved inside,
run the function again up to that tensor. A convolution is the last operation in all of ours and saves its input
before it runs: it is never computed twice, only what comes before it. The numbers are the same to the last bit.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Recomputation = Literal["none", "activations", "blocks"]


class Recomputing(nn.Module):
    """A block that can compute parts of itself again in the backward pass; `set_recomputation` says which."""

    recomputation: Recomputation = "none"

    def norm_silu_convolution(
        self, norm: nn.Module, convolution: nn.Module, features: Tensor, repeated: bool = False
    ) -> Tensor:
        """convolution(silu(norm(features))), keeping `features` alone unless the level is "none".

        Args:
            repeated: this is part of what is computed again as a whole. The convolution's input is there then, and
                only the norm is repeated, after the convolution's backward pass: that is the fullest moment.
        """

        def activation(features: Tensor) -> Tensor:
            return F.silu(norm(features))

        if repeated:
            return convolution(recomputed(activation, features))
        if self.recomputation != "none":
            return recomputed(lambda features: convolution(activation(features)), features)
        return convolution(activation(features))


def set_recomputation(module: nn.Module, level: Recomputation) -> None:
    """Set the level of every block in a network.

    Args:
        module: a network with `Recomputing` blocks.
        level: "none" (but for the decoder's last activation); "activations": normalizations with their SiLU, cheap and
            the largest part of the memory; "blocks": whole residual blocks as well, half of whose convolutions run
            once more.

    Raises:
        ValueError: for another level.
    """
    if level not in get_args(Recomputation):
        raise ValueError(f"recompute must be one of {list(get_args(Recomputation))}, got {level!r}")
    for block in module.modules():
        if isinstance(block, Recomputing):
            block.recomputation = level


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), which keeps its inputs alone for the backward pass. The function draws no random numbers."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
