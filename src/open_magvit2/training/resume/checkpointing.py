"""When a training is saved: by steps, by minutes, around validation, on a signal, at the end; and which files stay."""

import logging
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from open_magvit2.common.arguments import above, integer
from open_magvit2.common.files import claim
from open_magvit2.training import lightning_internals
from open_magvit2.training.record import record_of
from open_magvit2.training.resume import checkpoint_files
from open_magvit2.training.resume.preemption import EXIT_CODE, Agreement, SignalWatch

logger = logging.getLogger(__name__)

BEST = "best.ckpt"
_ANOTHER_FOLDER = "end it, or name another folder by checkpoint.dirpath or by the logger's version"
_NOTHING, _SAVE, _STOP = range(3)  # what a rank asks for after a step; the largest of all ranks counts


class TrainingStopped(RuntimeError):  # noqa: N818 - the user asked for it, it is not always a mistake
    """The training stopped because of its numbers or data; the message says why, and where its state is saved."""


class TrainingCheckpoint(Checkpoint):
    """Writes step_<training step>.ckpt; last.ckpt and best.ckpt are links to the newest and to the best one.

    It also saves before every validation, after it (with its result), and at the end.

    Args:
        dirpath: folder of the files; None for checkpoints/ in the logger's folder.
        every_steps: save after every so many training steps; None does not.
        every_minutes: save when so many minutes have passed since the last time; None does not.
        keep_last: how many step_*.ckpt are kept.
        monitor: logged figure of validation by which best.ckpt is chosen; None keeps none.
        mode: whether the largest ("max") or smallest ("min") figure is the best.
        signals: on these, on any rank, save at the end of the training step and leave with exit code 75.

    Raises:
        ValueError: for a setting out of range; in `setup`, for a folder in which another run still writes; in the
            trainer's sanity check, before step 1, for a figure that is not logged.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_steps: int | None = 5000,
        every_minutes: float | None = 30.0,
        keep_last: int = 2,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
        signals: Sequence[str] = ("SIGTERM", "SIGUSR1"),
    ) -> None:
        integer(1, **{"checkpoint.keep_last": keep_last})
        if every_steps is not None:
            integer(1, **{"checkpoint.every_steps": every_steps})
        if every_minutes is not None:
            above(0, **{"checkpoint.every_minutes": every_minutes})
        if mode not in ("min", "max"):
            raise ValueError(f"checkpoint.mode must be min or max, got {mode!r}")
        self.dirpath = dirpath  # the real folder after `setup`
        self.every_steps, self.every_minutes, self.keep_last = every_steps, every_minutes, keep_last
        self.monitor, self.mode = monitor, mode
        self.best_score: float | None = None
        self._watch = SignalWatch(signals)
        self._saved_step = 0  # nothing is saved before the first step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the folder, and write atomically unless the trainer has another checkpoint plugin."""
        if stage != "fit":
            return
        folder = Path(self.dirpath) if self.dirpath is not None else _run_folder(trainer) / "checkpoints"
        self.dirpath = trainer.strategy.broadcast(str(folder.absolute()))
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = checkpoint_files.AtomicCheckpointIO()
        if trainer.is_global_zero:
            self._claim = claim(Path(self.dirpath), _ANOTHER_FOLDER)  # until the process ends
            checkpoint_files.remove_partial_files(Path(self.dirpath))

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch from here on: Lightning has just set its own handlers, which end the run after one step with code 0."""
        if self._watch.start() and signal.SIGTERM in self._watch.signals:
            lightning_internals.skip_agreement_on_sigterm(trainer)  # this callback has its own

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._agreement = Agreement(lightning_internals.collective_timeout(trainer))
        self._last_time = time.monotonic()
        self.on_sanity_check_start(trainer, pl_module)  # a continued run has no sanity check
        if self._agreement.largest(_STOP if self._watch.received else _NOTHING) == _STOP:
            self._leave(trainer)
        present = f"step_{trainer.global_step:09d}.ckpt"
        later = [file for file in sorted(Path(self.dirpath).glob("step_*.ckpt")) if file.name > present]
        if later and trainer.is_global_zero:
            logger.warning("%s is of a later step: `last` takes it unless you move it away", later[-1])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if lightning_internals.is_accumulating(trainer):
            return  # a checkpoint has no gradients
        minutes = (time.monotonic() - self._last_time) / 60
        is_time = trainer.is_global_zero and self.every_minutes is not None and minutes >= self.every_minutes
        request = self._agreement.largest(_STOP if self._watch.received else _SAVE if is_time else _NOTHING)
        by_steps = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        if request != _NOTHING or by_steps or lightning_internals.validation_follows(trainer):
            self.save(trainer)
        if request == _STOP:
            self._leave(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _is_fitting(trainer):
            # Ranks may have a batch more than others: they ask each other during the batches that all have.
            numbers = [0 if math.isinf(number) else number for number in trainer.num_val_batches]
            self._shared_batches = [-self._agreement.largest(-int(number)) for number in numbers]

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *hook: Any) -> None:
        _, _, batch_idx, dataloader_idx = (*hook, 0)[:4]
        if not _is_fitting(trainer) or batch_idx >= self._shared_batches[dataloader_idx]:
            return
        if self._agreement.largest(_STOP if self._watch.received else _NOTHING) == _STOP:
            self._leave(trainer)  # the file from before this validation has everything

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            self._check_monitor(trainer)
        if not _is_fitting(trainer):
            return
        improved = self._update_best(trainer)
        path = self.save(trainer)
        if improved and trainer.is_global_zero:
            checkpoint_files.alias(path, BEST)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self.save(trainer)
        self._watch.stop()  # not in `teardown`: Lightning restores its own handlers before that

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._watch.stop()

    def save(self, trainer: pl.Trainer) -> Path:
        """Write the present state, between training steps, on the first rank; a collective call under DDP."""
        path = Path(self.dirpath) / f"step_{trainer.global_step:09d}.ckpt"
        for run_logger in trainer.loggers:
            run_logger.save()  # flush: a resumed run does not log earlier steps again
        trainer.save_checkpoint(path, weights_only=False)
        self._saved_step, self._last_time = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            checkpoint_files.alias(path, checkpoint_files.LAST)
            norms = record_of(trainer.lightning_module).gradient_norms.values()
            if all(norm.isfinite() for norm in norms):  # else these weights may be ruined: nothing goes for them
                files = sorted(path.parent.glob("step_*.ckpt"), reverse=True)
                for old in [file for file in files if file.name <= path.name][self.keep_last :]:
                    old.unlink()
        return path

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "monitor": self.monitor, "mode": self.mode, "dirpath": self.dirpath}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Another figure or another folder begins with no best.ckpt."""
        if {**state_dict, "best_score": None} == {**self.state_dict(), "best_score": None}:
            self.best_score = state_dict["best_score"]

    def _update_best(self, trainer: pl.Trainer) -> bool:
        """Whether this validation is the best so far; a figure that is not finite never is."""
        if self.monitor is None:
            return False
        if self.monitor not in trainer.callback_metrics:  # a continued run has no sanity check, and goes on without
            logger.error("%s is not logged by validation: no best checkpoint (checkpoint.monitor)", self.monitor)
            return False
        score = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(score):
            logger.warning("%s is %s at step %d: no best checkpoint", self.monitor, score, trainer.global_step)
            return False
        better = max if self.mode == "max" else min
        if self.best_score is not None and better(score, self.best_score) == self.best_score:
            return False
        self.best_score = score
        return True

    def _check_monitor(self, trainer: pl.Trainer) -> None:
        figures = trainer.callback_metrics
        if self.monitor is not None and self.monitor not in figures:
            names = "\n  ".join(sorted(set(figures) - {"step"})) or "(it logs nothing)"
            raise ValueError(
                f"checkpoint.monitor is {self.monitor!r}, which validation does not log; name one of these, or null to "
                f"keep no best.ckpt:\n  {names}"
            )

    def _leave(self, trainer: pl.Trainer) -> NoReturn:
        if trainer.is_global_zero:
            name = self._watch.received.name if self._watch.received else "a signal on another rank"
            if self._saved_step:
                state = f"saved at step {self._saved_step} in {self.dirpath}; --ckpt_path last continues it"
            else:  # before the first step, or in the validation that a continued run makes up for
                state = "nothing is new since the state it began from; the same command begins there again"
            logger.warning("%s: stopping, %s", name, state)
        raise SystemExit(EXIT_CODE)


def save_and_stop(trainer: pl.Trainer, reason: str, ruined_from: int | None = None) -> NoReturn:
    """Save the state, and end; a collective call under DDP.

    Args:
        reason: why training ends.
        ruined_from: the step from which on weights may be ruined. This state and those since then are then named
            stopped-at-<training step>.ckpt, so that `last` prefers those before. None: `last` continues from here.

    Raises:
        TrainingStopped: with the reason, and how to continue.
    """
    callback = next((each for each in trainer.callbacks if isinstance(each, TrainingCheckpoint)), None)
    step = trainer.global_step
    said = f"training stopped at step {step}: {reason}.\nThe state is saved in "
    if ruined_from is None and callback is not None:
        raise TrainingStopped(f"{said}{callback.save(trainer)}; --ckpt_path last continues from it.")
    path = Path(callback.dirpath if callback else trainer.default_root_dir, f"{checkpoint_files.STOPPED}{step}.ckpt")
    trainer.save_checkpoint(path, weights_only=False)
    said += f"{path}; --ckpt_path {path} continues from it"
    if ruined_from is None:
        raise TrainingStopped(f"{said}.")
    before = checkpoint_files.set_aside(path.parent, range(ruined_from, step + 1)) if trainer.is_global_zero else None
    other = f"--ckpt_path last continues from {before}" if before else "begin anew, no checkpoint is older"
    raise TrainingStopped(f"{said}, with a new count.\nIf it stops again, its weights are ruined: {other}.")


def _is_fitting(trainer: pl.Trainer) -> bool:
    """Not a validation by itself, nor the sanity check before training."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _run_folder(trainer: pl.Trainer) -> Path:
    """The folder of the first logger's run; W&B's has no log_dir."""
    run = trainer.logger
    if run is None:
        return Path(trainer.default_root_dir)
    folder = getattr(run, "log_dir", None)
    return Path(folder or Path(run.save_dir or trainer.default_root_dir, str(run.name), str(run.version)))
