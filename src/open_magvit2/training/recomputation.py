"""Memory for time: the backward pass computes parts of a network again instead of keeping their activations.

(Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.) Applied to a network from outside, on PyTorch's
checkpoints that do not re-enter autograd: a function runs again up to the tensor that the backward pass asks for. A
convolution is the last operation in all of ours and is never computed twice. The numbers are the same to the last bit.

Methods of single instances are replaced by bound methods, which `copy.deepcopy`, used by EMA, binds to the copy. They
read the level when they run: a compiled network then notices that it has changed.
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

    A decoder's `head` is recomputed at every level: its activations are the largest, and are needed when memory is
    fullest, with the losses' networks on top of the decoder's activations.

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
    """Replacements of the methods of a part."""
    if isinstance(part, ResidualBlock):
        return [_again("residual", "blocks"), _half("first", "conv1", "norm1"), _half("second", "conv2", "norm2")]
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


def _half(name: str, convolution: str, norm: str) -> Callable[..., Tensor]:
    """A half of a residual block, norm, SiLU, convolution.

    Within a residual that is computed again as a whole, the convolution's input exists when it is needed, and only the
    norm is repeated once more, after the convolution's backward pass: that is the fullest moment.
    """
    whole = _again(name, "activations")

    def method(self: Any, features: Tensor) -> Tensor:
        if self.recomputation == "blocks":
            activated = recomputed(lambda features: F.silu(getattr(self, norm)(features)), features)
            return getattr(self, convolution)(activated)
        return whole(self, features)

    method.__name__ = name
    return method
