"""The networks of a training step through `torch.compile`: fused kernels, for minutes at the first step."""

import torch
from torch import nn

_MOST_GRAPHS = 64


def compile_networks(*networks: nn.Module | None, backend: str = "inductor") -> None:
    """Compile networks in place, each as one graph; names of weights stay, and deep copies are not compiled.

    Weights enter a compiled network as inputs: whoever exchanges their values, as validation on EMA weights does,
    gets results of the new ones. Changes three settings of the whole process, see the comments.

    A network is compiled at its first pass, and again for another kind of pass: other sizes, precision, recomputation,
    gradients or none. Training has one kind. Validation and pictures, whose batches come in other sizes, therefore run
    uncompiled, inside `torch.compiler.set_stance("force_eager")`, as those of an uncompiled training do.

    Args:
        networks: None is left out, for a loss or a network that a training is without. Their classes must not be
            PyTorch's own, such as `nn.Sequential`, which `torch.compile` leaves alone without saying so.
        backend: of `torch.compile`.
    """
    # Graphs cut at the borders of DDP's buckets: refused where a network recomputes. Each network is a graph anyway.
    torch._dynamo.config.optimize_ddp = False
    # Saved tensors overwritten by the backward pass: refused where a graph runs twice (adaptive adversarial weight).
    torch._functorch.config.donated_buffer = False
    # Graphs are counted by class, for all networks of the process, and one too many ends it: 8 by default are few for a
    # notebook that tries several architectures.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    for network in networks:
        if network is not None:
            network.compile(fullgraph=True, backend=backend)
