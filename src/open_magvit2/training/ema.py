"""Exponential moving averages (EMA) of the weights (Polyak & Juditsky 1992), on Lightning's weight-averaging callback.

They live in the callback, outside the module that DDP wraps. Validation runs on them, and a checkpoint holds them under
`state_dict`, where most programs look, and the raw weights under `current_model_state`.
"""

import logging
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from open_magvit2.common import distributed
from open_magvit2.common.arguments import integer, within
from open_magvit2.training import lightning_internals

logger = logging.getLogger(__name__)

_LARGEST_STALE_SHARE = 0.01  # of the weights at the start in the averages, above which a validation warns


class ExponentialMovingAverage(WeightAveraging):
    """average <- decay * average + (1 - decay) * weights after every training step, on the training device.

    The average begins as the initial weights. With `warmup`, update n uses the decay min(decay, (1 + n) / (10 + n)), so
    that the initial weights are soon forgotten; without, as in the published recipe, it uses `decay` from the first
    update on, and after 400 updates 67 % of the average are initial weights. Buffers (BatchNorm's statistics, LeCAM's
    averages) are copied, not averaged.

    Validation also measures the raw weights, if the module has this method, and logs the mean over the same samples for
    both kinds of weights as validation/<name>_ema and validation/<name>_raw:

        def quick_figures(self, batch: Any) -> dict[str, Tensor]:
            '''Figures float [B] of the samples of a validation batch, by name.'''

    Args:
        decay: 0.999 in the published recipe.
        start_step: training steps before averaging begins; until then the average is a copy of the weights.
        warmup: False for the published recipe's fixed decay.
        raw_batches: validation batches of each device on which raw weights are measured; None for all, 0 for none.

    Raises:
        ValueError: for a setting out of range; in `setup`, for weights kept in half precision.
    """

    def __init__(
        self, decay: float = 0.999, start_step: int = 0, warmup: bool = True, raw_batches: int | None = 8
    ) -> None:
        within(0, 1, **{"ema.decay": decay})
        integer(0, **{"ema.start_step": start_step})
        if raw_batches is not None:
            integer(0, **{"ema.raw_batches": raw_batches})
        super().__init__(use_buffers=False)
        self.decay, self.start_step, self.warmup, self.raw_batches = decay, start_step, warmup, raw_batches
        self._latest_step = 0
        self._sums: dict[str, Tensor] = {}  # of a validation's figures: their sum and the number of samples

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
        update = trainer.global_step - self.start_step
        move_averages(averages, weights, self.decay_at(update) if update > 0 else 0.0)
        self.copy_buffers(pl_module)
        self._latest_step = trainer.global_step

    @torch.no_grad()
    def copy_buffers(self, pl_module: pl.LightningModule) -> None:
        """Copy this rank's buffers into the average."""
        for buffer, current in zip(self.average_module.buffers(), pl_module.buffers(), strict=True):
            buffer.copy_(current)

    def decay_at(self, update: int) -> float:
        """The decay of the update of this number, from 1 on."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def stale_share(self, updates: int) -> float:
        """Share that the weights from before the first update have in the averages after so many updates."""
        share = 1.0
        for update in range(1, updates + 1):
            share *= self.decay_at(update)
            if share < _LARGEST_STALE_SHARE / 2:
                break
        return share

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        is_measured = self.raw_batches is None or batch_idx < self.raw_batches
        if trainer.state.fn != TrainerFn.FITTING or not is_measured or not hasattr(pl_module, "quick_figures"):
            return
        with trainer.precision_plugin.val_step_context(), torch.compiler.set_stance("force_eager"):
            # Validation has exchanged the weights: the copy holds the raw ones.
            for kind, module in (("ema", pl_module), ("raw", self.average_module.eval())):
                for name, values in module.quick_figures(batch).items():
                    key, sums = f"validation/{name}_{kind}", torch.stack([values.sum(), torch.ones_like(values).sum()])
                    self._sums[key] = self._sums.get(key, 0) + sums

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        ranks = distributed.all_gather_object({name: sums.tolist() for name, sums in self._sums.items()})
        for name in sorted({name for sums in ranks for name in sums}):  # a rank may have no batch
            total, number = map(sum, zip(*(sums[name] for sums in ranks if name in sums), strict=True))
            self.log(name, total / number)
        self._sums = {}
        updates = trainer.global_step - self.start_step
        if updates > 0 and (share := self.stale_share(updates)) > _LARGEST_STALE_SHARE and trainer.is_global_zero:
            logger.warning(
                "step %d: %.0f %% of the averages that are validated are the weights of step %d: too few updates for "
                "ema.decay %g. Use ema.warmup true, a smaller ema.decay, or --ema null",
                *(trainer.global_step, 100 * share, self.start_step, self.decay),
            )

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
