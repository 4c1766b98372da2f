"""Fused kernels and memory formats, applied to networks from outside: `torch.compile` and channels-last weights."""

import torch
from torch import Tensor, nn

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def compile_networks(*networks: nn.Module | None, backend: str = "inductor") -> None:
    """Compile networks in place, each as one graph; names of weights stay, and deep copies are not compiled.

    Weights enter a compiled network as inputs, so that validation may exchange them for EMA weights. A network is
    compiled at its first pass and again for another kind of pass (other sizes, precision, recomputation, no
    gradients): validation and pictures therefore run uncompiled, in `torch.compiler.set_stance("force_eager")`.

    Args:
        networks: None is left out. PyTorch's own classes, such as `nn.Sequential`, are ignored by `torch.compile`.
        backend: of `torch.compile`.
    """
    # Graphs split at the borders of DDP's buckets: refused where a network recomputes.
    torch._dynamo.config.optimize_ddp = False
    # Saved tensors overwritten by the backward pass: refused where a graph runs twice (adaptive adversarial weight).
    torch._functorch.config.donated_buffer = False
    # Graphs are counted by class over the whole process; the default 8 are few for a notebook of several architectures.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for network in networks:
        if network is not None:
            network.compile(fullgraph=True, backend=backend)


def channels_last(tensor: Tensor) -> Tensor:
    """A tensor [B, C, H, W] or [B, C, T, H, W] with channels innermost in memory; any other one as it is."""
    return tensor.contiguous(memory_format=_FORMATS[tensor.ndim]) if tensor.ndim in _FORMATS else tensor


def use_channels_last(module: nn.Module) -> None:
    """Keep the weights of a module's convolutions, 2-D or 3-D, with channels innermost; its activations follow."""
    module._apply(channels_last)
