"""Keep what is not finite out of a training's state, without making the host wait for the device.

A loss that is not finite makes its network's whole gradient NaN. Gradients are summed over the ranks, so that every
rank sees the same NaN in the gradient's norm and skips that network's step, on the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def nan_unless_finite(loss: Tensor) -> Tensor:
    """A scalar loss, value and gradient as they are; both NaN where it is infinite or NaN.

    An infinite loss can have a finite gradient, and the absolute value of a NaN has the gradient 0.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, float("nan"))


def skip_unless_finite(optimizer: torch.optim.Optimizer, gradient_norm: Tensor) -> None:
    """Let a fused optimizer's next step change neither weights nor moments unless the gradient's norm is finite.

    It sets the flag that a loss scaler sets: fused kernels read it on the device. The norm is a scalar, the same on
    all ranks.
    """
    optimizer.found_inf = (~gradient_norm.isfinite()).float()


@contextmanager
def finite_buffers(module: nn.Module) -> Iterator[None]:
    """Afterwards, elements of the module's buffers that became infinite or NaN inside are what they were before.

    A forward pass updates BatchNorm's running statistics whether its step is taken or not, and a NaN stays in them.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(buffer.isfinite(), buffer, old))
