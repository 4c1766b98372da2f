"""Linear layers for few rows on a CPU: weights are packed once in the order in which oneDNN reads them.

Generating one token multiplies a handful of rows by every weight of the model. The time is that of reading the weights.
PyTorch has the operator for `torch.compile`, which packs the weights of frozen graphs with it.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def packed_linears(module: nn.Module, num_rows: int) -> Iterator[None]:
    """Inside, the linear layers of a module multiply by packed copies of their weights.

    It changes nothing, and costs nothing, on another device, in a dtype that oneDNN does not multiply on this CPU, or
    under autocast.

    Args:
        module: without gradients; weights must not change inside.
        num_rows: rows of the products, for which the packing is chosen; others are computed as well.
    """
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear and "forward" not in vars(layer)]
    layers = [layer for layer in layers if _is_packable(layer.weight)]
    for layer in layers:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), num_rows)
        layer.forward = functools.partial(_multiply, weight, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _multiply(weight: Tensor, bias: Tensor | None, features: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.enabled:
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
