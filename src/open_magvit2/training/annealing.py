"""Annealing of Gumbel-softmax: the temperature of the mixture falls during training (Jang et al., arXiv 1611.01144)."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from open_magvit2.common.construction import class_path
from open_magvit2.quantizers.gumbel import GumbelQuantizer
from open_magvit2.training.schedules import Schedule


class TemperatureAnnealing(Callback):
    """Before every step, sets a tokenizer's Gumbel temperature to its configured value times a schedule.

    Args:
        schedule: factor by training step. `WarmupCosine(150000, final_factor=0.0625)` is DALL-E's (arXiv 2102.12092),
            from 1 to 1/16.

    Raises:
        ValueError: as a training starts, for one without a `GumbelQuantizer`, or a schedule that reaches 0.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the configured temperature; a continued training has it as well."""
        quantizer = getattr(getattr(pl_module, "tokenizer", None), "quantizer", None)
        if not isinstance(quantizer, GumbelQuantizer):
            raise ValueError(
                f"TemperatureAnnealing needs a tokenizer with a GumbelQuantizer, got {class_path(type(quantizer))}"
            )
        self._quantizer, self._temperature = quantizer, quantizer.temperature

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Set the temperature of this step."""
        factor = self.schedule(pl_module.global_step)
        if not factor > 0:
            raise ValueError(f"the temperature must stay above 0, got {factor} at step {pl_module.global_step}")
        self._quantizer.temperature = factor * self._temperature
