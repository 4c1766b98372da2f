"""Progress bar and throughput of a whole training: step, losses, samples per second, time left."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from open_magvit2.training.record import num_samples, record_of


class _Rate:
    """Samples per second since the last `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start, self.samples = time.monotonic(), 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def read(self) -> float:
        """The rate, from which a new one begins."""
        rate = self.samples / max(self.seconds, 1e-9)
        self.reset()
        return rate


class TrainingProgress(ProgressBar):
    """A tqdm bar over all training steps; logs train/<unit>_per_second over all devices at the trainer's log steps.

    The bar shows what the module's record lists in `shown`, else what it logs with `self.log(..., prog_bar=True)`.
    Reading a value waits for the device, therefore it is read once per `refresh_seconds` only. A log file gets a line
    every `log_seconds` instead. Time spent in validation does not count.

    Args:
        refresh_seconds: between updates on a terminal.
        log_seconds: between lines elsewhere.
    """

    def __init__(self, refresh_seconds: float = 1.0, log_seconds: float = 30.0) -> None:
        super().__init__()
        self.interval = refresh_seconds if sys.stderr.isatty() else log_seconds
        self._bar: tqdm | None = None
        self._enabled = True
        self._shown, self._logged = _Rate(), _Rate()

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Undo `disable`."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        self._bar = tqdm(
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
        samples = num_samples(batch) * trainer.world_size
        unit = record_of(pl_module).unit
        for rate in (self._shown, self._logged):
            rate.samples += samples
        if trainer.global_step % trainer.log_every_n_steps == 0 and trainer.global_step > self._bar.n:
            rate = self._logged.read()
            for logger in trainer.loggers:
                logger.log_metrics({f"train/{unit}_per_second": rate}, step=trainer.global_step)
        if self._shown.seconds >= self.interval or trainer.global_step == self._bar.total:
            values = {label: f"{value:.3g}" for label, value in _values(trainer, pl_module).items()}
            self._bar.set_postfix({**values, f"{unit}/s": f"{self._shown.read():.1f}"}, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()
        figures = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        if self._enabled and figures and not trainer.sanity_checking:
            texts = (f"{name.removeprefix('validation/')} {float(value):.4g}" for name, value in figures.items())
            tqdm.write(f"validation at step {trainer.global_step}: {'  '.join(texts)}", file=sys.stderr)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's `self.print`: above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def _restart(self) -> None:
        self._shown.reset()
        self._logged.reset()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _values(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
    """What the bar shows beside the rate."""
    record = record_of(pl_module)
    if record.shown:
        return {label: float(record.latest[name]) for label, name in record.shown.items() if name in record.latest}
    values = trainer.progress_bar_metrics
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
