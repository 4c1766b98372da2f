"""Products of few rows with weights that a CPU reads at its full speed.

Generating one token multiplies a handful of rows by every weight of the model: its time is that of reading the weights.
So they are packed once in the order in which oneDNN reads them, and moved into huge pages. PyTorch has the operators
for `torch.compile`, which packs the weights of frozen graphs with them.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common import huge_pages
from open_magvit2.layers.transformer import TransformerBlock, has_own_parts

_one_at_a_time = threading.RLock()  # two threads may sample from one model, whose forward passes are replaced


@contextmanager
def packed(module: nn.Module, num_rows: int) -> Iterator[None]:
    """Inside, a module's transformer blocks and linear layers multiply by packed copies of their weights.

    The numbers are the same up to rounding. The copies take the memory of the weights once more. Layers on another
    device, in a dtype that oneDNN does not multiply on this CPU, under autocast, or with what a user changed (hooks,
    other parts, `compile`) stay as they are. Where anything is packed, inside is inference mode, and a second thread
    waits.

    Args:
        module: without gradients; weights must not change inside.
        num_rows: rows of the products, for which the packing is chosen; others are computed as well.
    """
    if not any(map(_is_packable, module.modules())):
        yield
        return
    with _one_at_a_time, torch.inference_mode():
        forwards = _pack(module, num_rows)
        before = {layer: vars(layer).pop("forward", None) for layer in forwards}
        for layer, forward in forwards.items():
            layer.forward = forward
        try:
            yield
        finally:
            for layer, forward in before.items():
                del layer.forward
                if forward is not None:
                    layer.forward = forward


def _pack(module: nn.Module, num_rows: int) -> "dict[nn.Module, PackedLinear | PackedBlock]":
    """The forward passes of the blocks and linear layers that can be packed."""
    blocks = list(filter(_is_fusible, module.modules()))
    inside = {part for block in blocks for part in block.modules()}
    others = [layer for layer in module.modules() if layer not in inside and _is_packable(layer)]
    forwards = {block: PackedBlock(block, num_rows) for block in blocks}
    forwards |= {layer: PackedLinear(num_rows, layer.bias, layer.weight) for layer in others}
    huge_pages.collapse(piece for forward in forwards.values() for piece in forward.memory())
    return forwards


class PackedLinear:
    """A linear layer for few rows, [..., D] -> [..., D'].

    Args:
        num_rows: for which the weights are packed.
        bias: [D'], or None.
        weights: [D1, D], [D2, D], ...: of one or several layers, whose results it concatenates.
    """

    def __init__(self, num_rows: int, bias: Tensor | None, *weights: Tensor) -> None:
        weight = weights[0].detach() if len(weights) == 1 else torch.cat([weight.detach() for weight in weights])
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
        self.bias = bias

    def memory(self) -> list[tuple[int, int]]:
        """(address, bytes) of the packed weight."""
        return [(torch.ops.mkldnn.data_ptr(self.weight), torch.ops.mkldnn._nbytes(self.weight))]

    def __call__(self, features: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(features, self.weight, self.bias, "none", [], "")

    def plus(self, features: Tensor, summand: Tensor) -> Tensor:
        """linear(features) + summand, in one pass."""
        return torch.ops.mkldnn._linear_pointwise.binary(features, summand, self.weight, self.bias, "add")


class PackedBlock:
    """The forward pass of a `TransformerBlock` in evaluation mode; gate and up of SwiGLU are one product."""

    def __init__(self, block: TransformerBlock, num_rows: int) -> None:
        self.block = block
        attention, feed_forward = block.attention, block.feed_forward
        self.qkv = PackedLinear(num_rows, attention.qkv.bias, attention.qkv.weight)
        self.out = PackedLinear(num_rows, attention.out.bias, attention.out.weight)
        self.gate_up = PackedLinear(num_rows, None, feed_forward.gate.weight, feed_forward.up.weight)
        self.down = PackedLinear(num_rows, None, feed_forward.down.weight)

    def memory(self) -> list[tuple[int, int]]:
        """See `PackedLinear.memory`."""
        linears = (self.qkv, self.out, self.gate_up, self.down)
        return [piece for linear in linears for piece in linear.memory()]

    def __call__(self, features: Tensor, *arguments: Any) -> Tensor:
        """See `TransformerBlock.forward`."""
        attended = self.block.attention.attend(self.qkv(self.block.attention_norm(features)), *arguments)
        features = self.out.plus(attended, features)
        gate, up = self.gate_up(self.block.feed_forward_norm(features)).chunk(2, dim=-1)
        return self.down.plus(F.silu(gate).mul_(up), features)


def _is_fusible(block: nn.Module) -> bool:
    """Whether it is a block of our own parts in evaluation mode, with weights that can be packed."""
    if type(block) is not TransformerBlock or block._compiled_call_impl is not None or not has_own_parts(block):
        return False
    if "forward" in vars(block) and not hasattr(block, "recomputation"):  # a level of recomputation, which is off here
        return False
    attention, feed_forward = block.attention, block.feed_forward
    products = (feed_forward.gate, feed_forward.up, feed_forward.down)
    is_evaluated = not (block.training or attention.dropout.training or feed_forward.dropout.training)
    are_packable = all(map(_is_packable, (attention.qkv, attention.out, *products)))
    return is_evaluated and are_packable and all(product.bias is None for product in products)


def _is_packable(layer: nn.Module) -> bool:
    """Whether it is a linear layer with a weight that oneDNN multiplies on this CPU, and no other forward pass."""
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer._compiled_call_impl is not None:
        return False
    weight = layer.weight
    if type(weight) is not nn.Parameter or layer._forward_pre_hooks:  # weight_norm makes the weight in such a hook
        return False
    if weight.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.enabled:
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
