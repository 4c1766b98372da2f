"""Memory for time in transformers: the backward pass computes parts of a block again instead of keeping them.

(Chen et al., arXiv 1604.06174; Korthikanti et al., arXiv 2205.05198, for the choice of the cheap parts.) As in
`recomputation`, the levels are applied from outside, on PyTorch's checkpoints that do not re-enter autograd, and the
numbers are the same to the last bit: dropout draws the same numbers again.
"""

from types import MethodType
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from open_magvit2.layers.transformer import SwiGLU, TransformerBlock

TransformerRecomputation = Literal["none", "activations", "blocks"]


def set_transformer_recomputation(module: nn.Module, level: TransformerRecomputation) -> None:
    """Set the level of every block in a network; it may be changed later.

    Args:
        module: a network with `TransformerBlock`s.
        level: "none"; "activations": the two products inside SwiGLU, which hold half of a block's memory and cost next
            to nothing; "blocks": whole blocks, of which only the input is kept: a third more time.

    Raises:
        ValueError: for another level.
    """
    if level not in get_args(TransformerRecomputation):
        raise ValueError(f"recompute must be one of {list(get_args(TransformerRecomputation))}, got {level!r}")
    for part in module.modules():
        replacement = {TransformerBlock: _block, SwiGLU: _swiglu}.get(type(part))
        if replacement is not None:
            part.recomputation = level
            part.forward = MethodType(replacement, part)


def _block(self: Any, features: Tensor, *arguments: Any) -> Tensor:
    """A block without a cache, of which only the input is kept."""
    if self.recomputation != "blocks" or not torch.is_grad_enabled():
        return TransformerBlock.forward(self, features, *arguments)
    draws = self.training and self.feed_forward.dropout.p > 0
    run = TransformerBlock.forward
    return checkpoint(run, self, features, *arguments, use_reentrant=False, preserve_rng_state=draws)


def _swiglu(self: Any, features: Tensor) -> Tensor:
    """SwiGLU that keeps its two inner projections; the last one saves its input before it runs, and runs once."""
    if self.recomputation != "activations" or not torch.is_grad_enabled():
        return SwiGLU.forward(self, features)

    def from_projections(gate: Tensor, up: Tensor) -> Tensor:
        return self.down(F.silu(gate) * up)

    gate, up = self.gate(features), self.up(features)
    return self.dropout(checkpoint(from_projections, gate, up, use_reentrant=False, preserve_rng_state=False))
