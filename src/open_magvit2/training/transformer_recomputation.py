"""Memory for time in transformers: the backward pass computes parts of a block again instead of keeping them.

(Chen et al., arXiv 1604.06174; Korthikanti et al., arXiv 2205.05198, for the choice of the cheap parts.) As in
`recomputation`, the levels are applied from outside. Dropout draws the same numbers again.
"""

from types import MethodType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from open_magvit2.layers.transformer import TransformerBlock, has_own_parts
from open_magvit2.training.memory_efficient_layers import normalized_linears, swiglu_down

TransformerRecomputation = Literal["none", "activations", "blocks"]


def set_transformer_recomputation(module: nn.Module, level: TransformerRecomputation) -> None:
    """Set the level of every block in a network; it may be changed later.

    Args:
        module: a network with `TransformerBlock`s.
        level: "none"; "activations": a block keeps the inputs of its norms, its queries, keys and values, the
            output of attention, and gate and up of SwiGLU; it computes again what costs no product of matrices, and
            takes no more time. It needs RMSNorm, SwiGLU and layers without biases; other blocks stay as they are.
            "blocks": only the input is kept: a third more time, the same numbers to the last bit.

    Raises:
        ValueError: for another level.
    """
    if level not in get_args(TransformerRecomputation):
        raise ValueError(f"recompute must be one of {list(get_args(TransformerRecomputation))}, got {level!r}")
    for part in module.modules():
        if type(part) is TransformerBlock:
            part.recomputation = level
            part.forward = MethodType(_block, part)


def _block(self: Any, features: Tensor, *arguments: Any) -> Tensor:
    """A block without a cache at its level."""
    if not torch.is_grad_enabled() or self.recomputation == "none":
        return TransformerBlock.forward(self, features, *arguments)
    if self.recomputation == "blocks":
        draws = self.training and self.feed_forward.dropout.p > 0
        run = TransformerBlock.forward
        return checkpoint(run, self, features, *arguments, use_reentrant=False, preserve_rng_state=draws)
    if not _is_plain(self):
        return TransformerBlock.forward(self, features, *arguments)
    attention, feed_forward = self.attention, self.feed_forward
    (qkv,) = normalized_linears(features, self.attention_norm, attention.qkv)
    features = features + attention.dropout(attention.out(attention.attend(qkv, *arguments)))
    gate, up = normalized_linears(features, self.feed_forward_norm, feed_forward.gate, feed_forward.up)
    return features + feed_forward.dropout(swiglu_down(gate, up, feed_forward.down))


_block.__name__ = "forward"  # a pickle of the block finds the class's method by this name


def _is_plain(block: TransformerBlock) -> bool:
    """Whether a block is made of RMSNorm, SwiGLU and linear layers without biases, and not of a user's variants."""
    if not has_own_parts(block):
        return False
    norms, feed_forward = (block.attention_norm, block.feed_forward_norm), block.feed_forward
    are_rms = all(type(norm) is nn.RMSNorm and norm.weight is not None for norm in norms)
    linears = (block.attention.qkv, feed_forward.gate, feed_forward.up, feed_forward.down)
    return are_rms and all(linear.bias is None for linear in linears)
