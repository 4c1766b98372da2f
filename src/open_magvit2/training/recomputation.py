"""Memory for time: the backward pass computes parts of a network again instead of keeping their activations.

(Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.) The levels are applied to a network from outside,
on PyTorch's checkpoints that do not re-enter autograd. A checkpoint saves the tensors that enter a function, and when
the backward pass asks for one saved inside, runs the function again up to that tensor. A convolution is the last
operation in all of ours and saves its input before it runs: it is never computed twice, only what comes before it. The
numbers are the same to the last bit.

`set_recomputation` replaces methods of single instances by bound methods, which `copy.deepcopy`, used by EMA, binds to
the copy. They read the level when they run: a compiled network then notices that it has changed.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from open_magvit2.layers.normalization import AdaptiveGroupNorm
from open_magvit2.layers.residual import ResidualBlock

Recomputation = Literal["none", "activations", "blocks"]


def set_recomputation(module: nn.Module, level: Recomputation) -> None:
    """Set the level of every block in a network; it may be changed later.

    A decoder's `head` is recomputed at every level: the losses' networks come on top of the decoder's activations, so
    that memory is fullest just before those of the head, the largest of all, are needed; and the head is one of some
    fifty convolutions.

    Args:
        module: a network with `ResidualBlock`s, `AdaptiveGroupNorm`s and methods `head`.
        level: "none" (except for decoders' heads); "activations": normalizations with their SiLU, cheap and
            the largest part of the memory; "blocks": whole residual blocks as well, half of whose convolutions run
            once more.

    Raises:
        ValueError: for another level.
    """
    if level not in get_args(Recomputation):
        raise ValueError(f"recompute must be one of {list(get_args(Recomputation))}, got {level!r}")
    for part in module.modules():
        methods = _methods(part)
        if methods:
            part.recomputation = level
        for method in methods:  # a pickle of the part finds the class's method by the same name
            setattr(part, method.__name__, MethodType(method, part))


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), which keeps its inputs alone for the backward pass. The function draws no random numbers."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def _methods(part: nn.Module) -> list[Callable[..., Tensor]]:
    """What replaces the methods of a part."""
    if isinstance(part, ResidualBlock):
        return [_again("residual", "blocks"), first, second]
    if isinstance(part, AdaptiveGroupNorm):
        return [_again("forward", "activations", "blocks")]
    if hasattr(type(part), "head"):
        is_decoder = hasattr(type(part), "last_layer")  # protocols.Decoder
        return [_again("head", "activations", "blocks", *(["none"] if is_decoder else []))]
    return []


def _again(name: str, *levels: Recomputation) -> Callable[..., Tensor]:
    """A method that runs the class's method of a name, at some levels once more in the backward pass."""

    def method(self: Any, *inputs: Tensor) -> Tensor:
        if self.recomputation in levels:
            return recomputed(lambda *inputs: getattr(type(self), name)(self, *inputs), *inputs)
        return getattr(type(self), name)(self, *inputs)

    method.__name__ = name
    return method


def first(self: Any, features: Tensor) -> Tensor:
    """First half of a residual block.

    Within a residual that is computed again as a whole, the convolution's input exists when it is needed, and only the
    norm is repeated once more, after the convolution's backward pass: that is the fullest moment.
    """
    if self.recomputation == "activations":
        return recomputed(lambda features: type(self).first(self, features), features)
    if self.recomputation == "blocks":
        return self.conv1(recomputed(lambda features: F.silu(self.norm1(features)), features))
    return type(self).first(self, features)


def second(self: Any, features: Tensor) -> Tensor:
    """Second half of a residual block, likewise."""
    if self.recomputation == "activations":
        return recomputed(lambda features: type(self).second(self, features), features)
    if self.recomputation == "blocks":
        return self.conv2(recomputed(lambda features: F.silu(self.norm2(features)), features))
    return type(self).second(self, features)
