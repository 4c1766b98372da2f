"""The optimizers of a generator and a discriminator: made alike, they step together, once each training step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from open_magvit2.training import finite


def fused_adam(network: nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam in one kernel for all weights of a network; what it restores from a checkpoint lies as the weights do."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=betas, fused=True)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    return optimizer


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


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Moments keep the strides they were saved with; where `channels_last` has changed, the weights have others.

    The fused kernel takes weight, gradient and moments in the order in which they lie in memory: on a CPU it would
    pair wrong numbers without a word, on a GPU refuse.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if name != "step":
                state[name] = torch.empty_like(weight).copy_(value)


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that Lightning wraps."""
    return getattr(optimizer, "optimizer", optimizer)
