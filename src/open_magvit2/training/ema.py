"""Exponential moving averages (EMA) of the weights (Polyak & Juditsky 1992), on Lightning's weight-averaging callback.

They live in the callback, outside the module that DDP wraps. Validation runs on them, and a checkpoint holds them under
`state_dict`, where most programs look, and the raw weights under `current_model_state`.
"""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn

from open_magvit2.common.arguments import at_least, within
from open_magvit2.training import lightning_internals


class ExponentialMovingAverage(WeightAveraging):
    """average <- decay * average + (1 - decay) * weights after every training step, on the training device.

    Buffers (BatchNorm's statistics, LeCAM's averages) are copied, not averaged.

    Args:
        decay: 0.999 in the published recipe.
        start_step: training steps before averaging begins; until then the average is a copy of the weights.

    Raises:
        ValueError: for a decay outside [0, 1); in `setup`, for weights kept in half precision.
    """

    def __init__(self, decay: float = 0.999, start_step: int = 0) -> None:
        within(0, 1, decay=decay)
        at_least(0, start_step=start_step)
        super().__init__(use_buffers=False)
        self.decay, self.start_step = decay, start_step
        self._latest_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self.average_module.to(trainer.strategy.root_device)
        average = trainer.precision_plugin.convert_module(self.average_module)  # as it will convert the module
        dtype = next(average.parameters()).dtype
        if self.decay and torch.finfo(dtype).bits < 32:
            raise ValueError(
                f"trainer.precision {trainer.precision} keeps weights in {dtype}, too short for averages of decay "
                f"{self.decay}: they stand still. Use bf16-mixed or 16-mixed, which keep weights in float32, or "
                "--ema null for no averages"
            )

    @property
    def average_module(self) -> nn.Module:
        """The copy of the LightningModule that holds the averages, during a fit."""
        return lightning_internals.average_module(self)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step <= self._latest_step:
            return
        averages, weights = list(self.average_module.parameters()), list(pl_module.parameters())
        if trainer.global_step <= max(1, self.start_step):
            torch._foreach_copy_(averages, weights)
        else:
            move_averages(averages, weights, self.decay)
        self.copy_buffers(pl_module)
        self._latest_step = trainer.global_step

    @torch.no_grad()
    def copy_buffers(self, pl_module: pl.LightningModule) -> None:
        """Copy this rank's buffers into the average."""
        for buffer, current in zip(self.average_module.buffers(), pl_module.buffers(), strict=True):
            buffer.copy_(current)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: the average moves with steps."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: Lightning would overwrite the raw weights, and a checkpoint written later would lose them."""

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self._latest_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._latest_step = state_dict["latest_update_step"]


def move_averages(averages: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * weight, in place, for all tensors in few kernels."""
    torch._foreach_lerp_(averages, weights, 1.0 - decay)
