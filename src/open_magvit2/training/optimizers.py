"""The optimizers of a generator and a discriminator: made alike, and stepped together once a training step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from open_magvit2.training import finite
from open_magvit2.training.sharding import whole


def fused_adam(network: nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam in one kernel for all weights of a network."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=betas, fused=True)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    return optimizer


def fused_adamw(
    network: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW in one kernel for all weights of a network; matrices and tables decay, vectors (norms, biases) do not."""
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def step_all(
    optimizers: Sequence[Any],
    learning_rate: float,
    gradient_clip_norm: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, torch.Tensor]:
    """Step the generator's optimizer, fused and perhaps wrapped by Lightning, and the discriminator's if there is one.

    Only the generator's is stepped through Lightning, which would count a second training step and update the loss
    scale a second time. A network whose gradient is not finite keeps its weights; the other one steps.

    Returns:
        the norms of the gradients before clipping, scalars on the device, as "generator" and "discriminator".
    """
    norms: dict[str, torch.Tensor] = {}
    unwrapped = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
    for name, optimizer in zip(("generator", "discriminator"), unwrapped, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if scaler is not None:
            scaler.unscale_(optimizer)  # Lightning leaves that to a fused optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms[name] = whole(nn.utils.get_total_norm([p.grad for p in parameters]))
        if gradient_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_norm, norms[name])
        if scaler is None:
            finite.skip_unless_finite(optimizer, norms[name])
    for optimizer in unwrapped[1:]:
        optimizer.step() if scaler is None else scaler.step(optimizer)
    optimizers[0].step()
    return norms


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give moments from a checkpoint the strides of their weights: `channels_last` may differ from the run before.

    The fused kernel walks weight, gradient and moments in the order in which they lie in memory: on a CPU it would
    silently pair the wrong numbers, on a GPU it refuses.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if name != "step":
                state[name] = torch.empty_like(weight).copy_(value)
