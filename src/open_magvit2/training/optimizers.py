"""The optimizers of a generator and a discriminator: made alike, and stepped together once a training step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from open_magvit2.training import finite


def fused_adam(network: nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam in one kernel for all weights of a network; moments from a checkpoint get the weights' memory format."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=betas, fused=True)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    return optimizer


def step_all(
    optimizers: Sequence[Any],
    learning_rate: float,
    gradient_clip_norm: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, torch.Tensor]:
    """Step all optimizers once; Lightning counts only the generator's step as the training step.

    The discriminator's optimizer is stepped without Lightning, which would count a second training step and update the
    loss scale a second time. Gradients are unscaled here: Lightning leaves that to a fused optimizer.

    A network whose gradient is not finite keeps its weights; the other one steps, and the step counts.

    Args:
        optimizers: fused ones, or what Lightning wrapped around them: the generator's, the discriminator's if there is.
        learning_rate: of this step, for all.
        gradient_clip_norm: largest norm of each network's gradient; None does not clip.
        scaler: of the losses in fp16.

    Returns:
        the norms of the gradients before clipping, scalars on the device, as "generator" and "discriminator".
    """
    norms: dict[str, torch.Tensor] = {}
    for name, optimizer in zip(("generator", "discriminator"), optimizers, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if scaler is not None:
            scaler.unscale_(_unwrapped(optimizer))
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms[name] = nn.utils.get_total_norm([p.grad for p in parameters])
        if gradient_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_norm, norms[name])
        if scaler is None:
            finite.skip_unless_finite(_unwrapped(optimizer), norms[name])
    for optimizer in optimizers[1:]:
        if scaler is None:
            _unwrapped(optimizer).step()
        else:
            scaler.step(_unwrapped(optimizer))
    optimizers[0].step()
    return norms


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the strides of their weights: `channels_last` may differ from the run that saved them.

    The fused kernel walks weight, gradient and moments in the order in which they lie in memory: on a CPU it would
    silently pair the wrong numbers, on a GPU it refuses.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if name != "step":
                state[name] = torch.empty_like(weight).copy_(value)


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that Lightning wraps."""
    return getattr(optimizer, "optimizer", optimizer)
