"""The optimizers of a generator and a discriminator step together, once for each training step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from open_magvit2.training import finite


def take(
    optimizers: Sequence[Any],
    learning_rate: float,
    gradient_clip_norm: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Any]:
    """Step all optimizers once; Lightning counts the generator's step alone as the training step.

    The learning rate is a function of the step and no state: a run continued with another schedule follows it.
    The discriminator's step passes Lightning by, because there it would count as a second training step and
    update the loss scale a second time. Gradients are unscaled here: Lightning leaves that to a fused optimizer.

    A network whose gradient is not finite keeps its weights; the other one steps, and the step counts.

    Args:
        optimizers: fused ones, or what Lightning wrapped around them: the generator's, the discriminator's if there is.
        learning_rate: of this step, for all.
        gradient_clip_norm: largest norm of each network's gradient; None does not clip.
        scaler: of the losses in fp16.

    Returns:
        learning_rate, and the gradients' norms before clipping as <network>/gradient_norm, scalars on the device.
    """
    logged: dict[str, Any] = {"learning_rate": learning_rate}
    for name, optimizer in zip(("generator", "discriminator"), optimizers, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if scaler is not None:
            scaler.unscale_(_unwrapped(optimizer))
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if gradient_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_norm, norm)
        if scaler is None:
            finite.skip_unless_finite(_unwrapped(optimizer), norm)
        logged[f"{name}/gradient_norm"] = norm
    for optimizer in optimizers[1:]:
        if scaler is None:
            _unwrapped(optimizer).step()
        else:
            scaler.step(_unwrapped(optimizer))
    optimizers[0].step()
    return logged


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that Lightning wraps."""
    return getattr(optimizer, "optimizer", optimizer)
