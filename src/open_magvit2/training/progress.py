"""Progress bar and throughput of a whole training: step, losses, samples per second, time left."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from open_magvit2.common.arguments import at_least
from open_magvit2.common.progress_bar import LOG_SECONDS, progress_bar
from open_magvit2.training.record import num_samples, record_of


class TrainingProgress(ProgressBar):
    """A tqdm bar over all training steps; logs train/<unit>_per_second over all devices at the trainer's log steps.

    The bar shows what the module's record lists in `shown`, else what it logs with `self.log(..., prog_bar=True)`.
    Reading a value waits for the device, therefore it is read once per `refresh_seconds` only. A log file gets a line
    every `log_seconds` instead. Time spent in validation does not count.

    Args:
        refresh_seconds: between updates on a terminal.
        log_seconds: between lines elsewhere.
    """

    def __init__(self, refresh_seconds: float = 1.0, log_seconds: float = LOG_SECONDS) -> None:
        super().__init__()
        at_least(0, **{"progress.refresh_seconds": refresh_seconds, "progress.log_seconds": log_seconds})
        self.interval = refresh_seconds if sys.stderr.isatty() else log_seconds
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Undo `disable`."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        self._bar = progress_bar(
            total=None if total == float("inf") else int(total),
            initial=trainer.global_step,
            unit="step",
            desc="training",
            mininterval=self.interval,
            dynamic_ncols=True,
            disable=not self._enabled,
        )
        self._restart()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, record, now = trainer.global_step, record_of(pl_module), time.monotonic()
        self._samples += num_samples(batch) * trainer.world_size * record.units_per_sample
        if step % trainer.log_every_n_steps == 0 and step > self._bar.n:
            for logger in trainer.loggers:
                logger.log_metrics({f"train/{record.unit}_per_second": self._rate(self._logged)}, step=step)
            self._logged = now, self._samples
        if now - self._shown[0] >= self.interval or step == self._bar.total:
            values = {label: f"{value:.3g}" for label, value in _shown_values(trainer, pl_module).items()}
            self._bar.set_postfix({**values, f"{record.unit}/s": f"{self._rate(self._shown):.1f}"}, refresh=False)
            self._shown = now, self._samples
        self._bar.update(step - self._bar.n)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()
        figures = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        if figures and not trainer.sanity_checking:
            texts = (f"{name.removeprefix('validation/')} {float(value):.4g}" for name, value in figures.items())
            self.print(f"validation at step {trainer.global_step}: {'  '.join(texts)}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's `self.print`: above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def _restart(self) -> None:
        """Begin to count anew; each reading of the rate begins at its own (time, samples)."""
        self._samples = 0
        self._shown = self._logged = time.monotonic(), 0

    def _rate(self, since: tuple[float, int]) -> float:
        return (self._samples - since[1]) / max(time.monotonic() - since[0], 1e-9)


def _shown_values(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
    record = record_of(pl_module)
    if record.shown:
        return {label: float(record.latest[name]) for label, name in record.shown.items() if name in record.latest}
    values = trainer.progress_bar_metrics
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
