"""Watches a training's numbers: steps that were skipped because they were not finite, and a codebook that collapses.

`finite.py` skips the steps and needs no callback. This callback counts them on the device and reads the counts at the
trainer's log steps, where the host waits for the device anyway. All values it looks at are the same on every rank.
"""

import logging
import math
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from open_magvit2.common.arguments import integer, within
from open_magvit2.training.record import TrainingRecord, record_of
from open_magvit2.training.resume.checkpointing import TrainingStopped as TrainingStopped
from open_magvit2.training.resume.checkpointing import save_and_stop

logger = logging.getLogger(__name__)


class TrainingHealth(Callback):
    """Logs train/skipped_steps (train/overflows under a loss scale); stops after too many; warns of a collapse.

    It reads `gradient_norms`, `logged` and `codebook_size` of the module's `TrainingRecord`, and does nothing without.

    Args:
        stop_after_skipped: steps in a row, each with a network that was not stepped, after which training stops. Under
            a loss scale every one halves it: after 25 of them no gradient overflows any more, it is NaN.
        lowest_utilization: share of the codebook in use, within the module's usage_window, below which it has
            collapsed.
        lowest_entropy: entropy of the codes in use as a share of log2(codebook_size), below which it has collapsed.
        codebook_from_step: first step at which the codebook is judged: a new model uses few codes.
        on_collapse: "warn" or "stop".

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        stop_after_skipped: int = 25,
        lowest_utilization: float = 0.01,
        lowest_entropy: float = 0.25,
        codebook_from_step: int = 2000,
        on_collapse: Literal["warn", "stop"] = "warn",
    ) -> None:
        integer(1, **{"health.stop_after_skipped": stop_after_skipped})
        shares = {"health.lowest_utilization": lowest_utilization, "health.lowest_entropy": lowest_entropy}
        within(0, 1, include_high=True, **shares)
        integer(0, **{"health.codebook_from_step": codebook_from_step})
        if on_collapse not in ("warn", "stop"):
            raise ValueError(f"health.on_collapse must be warn or stop, got {on_collapse!r}")
        self.stop_after_skipped = stop_after_skipped
        self.lowest_utilization, self.lowest_entropy = lowest_utilization, lowest_entropy
        self.codebook_from_step, self.on_collapse = codebook_from_step, on_collapse
        self.totals = {"skipped_steps": 0, "overflows": 0}  # as last read
        self._total: torch.Tensor | int = 0  # of this precision's kind; on the device between two readings
        self._in_a_row: torch.Tensor | int = 0
        self._is_collapsed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self._kind = "overflows" if is_scaled else "skipped_steps"
        # A run that continues from where this callback stopped it has another chance.
        in_a_row = 0 if self._in_a_row >= self.stop_after_skipped else int(self._in_a_row)
        self._total, self._in_a_row = torch.tensor((self.totals[self._kind], in_a_row), device=pl_module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        record = record_of(pl_module)
        if record.gradient_norms:
            skipped = torch.stack(list(record.gradient_norms.values())).isfinite().all().logical_not()
            self._total = self._total + skipped
            self._in_a_row = (self._in_a_row + 1) * skipped
            if trainer.global_step % trainer.log_every_n_steps == 0:
                self._read_skipped(trainer, record)
        is_known = record.codebook_size is not None and "train/codebook_utilization" in record.logged
        if is_known and trainer.global_step >= self.codebook_from_step:
            self._check_codebook(trainer, record)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run may end between two log steps."""
        record = record_of(pl_module)
        if record.gradient_norms and trainer.global_step % trainer.log_every_n_steps:
            self._read_skipped(trainer, record)

    def state_dict(self) -> dict[str, Any]:
        if torch.is_tensor(self._total):
            self.totals[self._kind] = int(self._total)
        return {"totals": dict(self.totals), "in_a_row": int(self._in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals, self._in_a_row = dict(state_dict["totals"]), state_dict["in_a_row"]

    def _read_skipped(self, trainer: pl.Trainer, record: TrainingRecord) -> None:
        before = self.totals[self._kind]
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        self.totals[self._kind] = total
        for run_logger in trainer.loggers:
            run_logger.log_metrics({f"train/{self._kind}": total}, step=trainer.global_step)
        if in_a_row >= self.stop_after_skipped:
            networks = [name for name, norm in record.gradient_norms.items() if not norm.isfinite()]
            save_and_stop(
                trainer,
                f"the loss or the gradient was not finite in the last {in_a_row} steps (in the last one: of the "
                f"{' and the '.join(networks)}). The weights are those from before. Try a lower "
                "model.init_args.learning_rate, model.init_args.gradient_clip_norm 1.0, or trainer.precision "
                "bf16-mixed or 32-true",
                ruined_from=trainer.global_step - in_a_row,  # skipped steps leave the weights as they were
            )
        if total > before and self._kind == "skipped_steps" and trainer.is_global_zero:
            logger.warning(
                "step %d: %d step(s) since the last log were skipped: a loss or gradient was not finite (%d in all). "
                "%d in a row stop the training (health.stop_after_skipped)",
                *(trainer.global_step, total - before, total, self.stop_after_skipped),
            )

    def _check_codebook(self, trainer: pl.Trainer, record: TrainingRecord) -> None:
        """Warn once, and again only after a recovery; or stop."""
        used, entropy = record.logged["train/codebook_utilization"], record.logged["train/codebook_entropy_bits"]
        most, was_collapsed = math.log2(record.codebook_size), self._is_collapsed
        self._is_collapsed = used < self.lowest_utilization or entropy < self.lowest_entropy * most
        if not self._is_collapsed:
            return
        message = (
            f"the codebook has collapsed: {used:.2%} of its {record.codebook_size:,} codes are in use, with an entropy "
            f"of {entropy:.2f} of {most:.2f} bits (health.lowest_utilization {self.lowest_utilization:.2%}, "
            f"health.lowest_entropy {self.lowest_entropy:.0%}). Try a weight of codebook_entropy further below 0, "
            "entropy_annealing 3 over 2000 steps (generator_objective), or a lower learning rate"
        )
        if self.on_collapse == "stop":
            save_and_stop(trainer, message, ruined_from=trainer.global_step)
        elif not was_collapsed and trainer.is_global_zero:
            logger.warning("step %d: %s", trainer.global_step, message)
