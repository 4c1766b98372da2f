"""One progress bar over the whole training: step, loss, PSNR, images per second, time left."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm


class TrainingProgress(ProgressBar):
    """A tqdm bar that counts training steps, not the batches of an epoch.

    Reading a loss waits for the device, so that values are fetched once per `refresh_seconds` only. A log file that is
    no terminal gets a line every `log_seconds` instead.

    Args:
        refresh_seconds: between updates on a terminal.
        log_seconds: between lines elsewhere.
    """

    def __init__(self, refresh_seconds: float = 1.0, log_seconds: float = 30.0) -> None:
        super().__init__()
        self.interval = refresh_seconds if sys.stderr.isatty() else log_seconds
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on all ranks but the first."""
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
        self._last_time, self._images = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["image"]) * trainer.world_size
        elapsed = time.monotonic() - self._last_time
        done = trainer.global_step == self._bar.total
        if elapsed >= self.interval or done:
            terms = getattr(pl_module, "latest_terms", {})
            shown = {"loss": "generator/total", "PSNR": "psnr"}
            values = {label: f"{float(terms[name]):.3g}" for label, name in shown.items() if name in terms}
            self._bar.set_postfix({**values, "images/s": f"{self._images / max(elapsed, 1e-9):.1f}"}, refresh=False)
            self._last_time, self._images = time.monotonic(), 0
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # time spent in validation is not time spent on training images
        self._last_time, self._images = time.monotonic(), 0
        figures = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("validation/")}
        if self._enabled and figures and not trainer.sanity_checking:
            line = "  ".join(
                f"{name.removeprefix('validation/')} {float(value):.4g}" for name, value in figures.items()
            )
            tqdm.write(f"validation at step {trainer.global_step}: {line}", file=sys.stderr)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's `self.print`: above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=sys.stderr)
