"""A training step outside a Trainer, in the precision that Lightning's own plugin gives it: autocast and loss scale."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from pytorch_lightning.plugins import MixedPrecision as Plugin
from torch import Tensor

from open_magvit2.common.precision import without_bfloat16_units

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")

_MOST_HALVINGS = 40
_FLAGS = {"bf16": "bf16-mixed", "fp16": "16-mixed"}  # as --trainer.precision names them


class MixedPrecision:
    """What surrounds a step: nothing in fp32, autocast in bf16, autocast and a loss scale in fp16.

    Autocast's options and the scaler are those of Lightning's plugin. As in a Trainer, the backward pass and the
    optimizers run inside autocast as well.

    Args:
        precision: of the networks.
        device_type: "cuda" or "cpu".
        scaler: of fp16, in place of the plugin's own.

    Raises:
        ValueError: for another precision.
    """

    def __init__(self, precision: Precision, device_type: str, scaler: torch.amp.GradScaler | None = None) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        flag: Any = _FLAGS.get(precision)
        self._plugin = None if flag is None else Plugin(flag, device_type, scaler)
        self.scaler = None if self._plugin is None else self._plugin.scaler

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a whole step."""
        return nullcontext() if self._plugin is None else self._plugin.forward_context()

    def backward(self, total: Tensor) -> None:
        """Gradients of a loss, which is scaled in fp16."""
        (total if self.scaler is None else self.scaler.scale(total)).backward()

    def settle(self, step: Callable[[], Any]) -> None:
        """Run steps until the loss scale of fp16 stays: before that the optimizers skip and have no state.

        Raises:
            ArithmeticError: if gradients are not finite at any scale.
        """
        for _ in range(_MOST_HALVINGS if self.scaler is not None else 0):
            before = self.scaler.get_scale()
            step()
            if self.scaler.get_scale() >= before:
                return
        if self.scaler is not None:
            raise ArithmeticError(f"gradients are not finite down to a loss scale of {self.scaler.get_scale():g}")

    def wrapped(self, optimizers: Iterable[torch.optim.Optimizer]) -> list[Any]:
        """Optimizers whose `step` asks the scaler, like a Trainer's; the optimizers themselves where there is none."""
        return [optimizer if self.scaler is None else _Scaled(optimizer, self.scaler) for optimizer in optimizers]


FLOAT32 = MixedPrecision("fp32", "cpu")  # on any device: nothing surrounds the step


class _Scaled:
    """An optimizer that steps where the gradients are finite, after which the scaler sets the next loss scale."""

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        self.optimizer, self.scaler = optimizer, scaler
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def step(self) -> None:
        self.scaler.step(self.optimizer)  # unscales first, unless that was done
        self.scaler.update()


@contextmanager
def training_kernels() -> Iterator[None]:
    """Inside, kernels are those of our trainings: cuDNN's found by trial (base.yaml's `benchmark: true`), and TF32.

    TF32 both in convolutions and in matrix products, where `training/cli.py` allows it.
    """
    products = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            yield
    finally:
        torch.set_float32_matmul_precision(products)


def why_not(precision: Precision, device: torch.device) -> str | None:
    """Why a precision is not measured on a device, or None where it is."""
    if precision == "bf16" and (name := without_bfloat16_units(device)):
        return f"{name} has no bfloat16 units"
    if precision == "fp16" and device.type != "cuda":
        return "Lightning trains in float16 on GPUs alone"
    return None
