"""Exact resumption: a run continued from a checkpoint ends bitwise where the uninterrupted one ends.

Lightning restores weights, optimizers, loss scale and callbacks. This adds what is each rank's own (BatchNorm's
statistics, PyTorch's random generators), puts Lightning's counters at the beginning of the next training step instead
of in the middle of the last one, and makes up for a validation that was due when the run stopped. Which image comes
next is the data module's matter (`ImageDataModule.state_dict`).
"""

import logging
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from open_magvit2.common import distributed
from open_magvit2.training.ema import ExponentialMovingAverage

logger = logging.getLogger(__name__)

KEY = "resumption"  # of a checkpoint
_CPU, _DEVICE = "cpu", "device"


def batches_done(trainer: pl.Trainer) -> int:
    """Training batches whose step is over, over all epochs."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether a training step is just over (`on_train_batch_end`), and a validation comes before the next one."""
    loop = trainer.fit_loop
    counts = loop.epoch_loop.batch_progress.total
    within = trainer.training and counts.completed < counts.processed
    return within and bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


class ExactResumption(Checkpoint):
    """Saves and restores what Lightning does not; a `Checkpoint` so that it is called after the other callbacks."""

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._max_steps: int | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Gather every rank's own state; a collective call under DDP."""
        batches = batches_done(trainer)
        _set_counters(checkpoint, trainer, batches)
        checkpoint[KEY] = {
            "batches": batches,
            "validation_pending": validation_follows(trainer),
            "devices": trainer.world_size,
            "micro_batch_size": getattr(pl_module, "micro_batch_size", None),
            "ranks": distributed.all_gather_object(
                {"random": _random_state(trainer), "buffers": _own_buffers(pl_module)}
            ),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if KEY not in checkpoint:
            logger.warning("the checkpoint comes from another program: weights continue, the order of images may not")
            return
        self._saved = saved = checkpoint[KEY]
        _set_counters(checkpoint, trainer, saved["batches"])
        is_within_epoch = not checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
        if is_within_epoch and not hasattr(trainer.datamodule, "epoch_and_batch"):
            data = type(trainer.datamodule or pl_module).__name__
            logger.warning("%s cannot continue within an epoch: its samples begin anew", data)
        # Lightning cannot know that this loader continues at the right image
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        loop = trainer.fit_loop
        if saved["validation_pending"] and checkpoint["global_step"] >= loop.max_steps >= 0:
            # Lightning would see a finished training and leave; it is let in for the validation, see on_train_start
            self._max_steps = loop.max_steps
            loop.epoch_loop.max_steps = checkpoint["global_step"] + 1
        if trainer.is_global_zero:
            _hide_events_after(trainer, checkpoint["global_step"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse ranks that continue from different states."""
        steps = distributed.all_gather_object(None if self._saved is None else self._saved["batches"])
        if len(set(steps)) > 1:
            raise ValueError(
                f"the ranks found different checkpoints: after {steps} training steps (None: no checkpoint). All "
                "machines must see the same output folder, or get the same file by --ckpt_path FILE"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._saved is None:
            return
        saved, ranks = self._saved, self._saved["ranks"]
        if len(ranks) == trainer.world_size:
            mine = ranks[trainer.global_rank]
            _restore_random_state(trainer, mine["random"])
            buffers = dict(pl_module.named_buffers())
            for name, value in mine["buffers"].items():
                buffers[name].copy_(value)
        else:
            _report_other_devices(trainer, pl_module, saved)
        for callback in trainer.callbacks:
            if isinstance(callback, ExponentialMovingAverage):
                callback.copy_buffers(pl_module)
        logger.info("continuing after %d training steps", trainer.global_step)
        if saved["validation_pending"]:
            _validate(trainer)
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._saved is not None:
            # Lightning counts the validation it skips while it restarts as a batch; it is the step axis of `self.log`
            trainer.fit_loop.epoch_loop._batches_that_stepped = self._saved["batches"]
            self._saved = None


def _set_counters(checkpoint: dict[str, Any], trainer: pl.Trainer, batches: int) -> None:
    """Let Lightning's counters in a checkpoint say: so many batches are done, and the next one has not begun.

    Where within its loop Lightning stood when the file was written is then of no matter.
    """
    if not hasattr(trainer.datamodule, "epoch_and_batch"):
        return  # Lightning's own counters stay; on_load_checkpoint says what that means
    epoch, batch = trainer.datamodule.epoch_and_batch(batches)
    epochs = _progress(epoch, epoch)
    if batch > 0:
        for counts in epochs.values():
            counts["ready"] += 1
            counts["started"] += 1
    checkpoint["epoch"] = epoch
    checkpoint["loops"]["fit_loop"] |= {
        "epoch_progress": epochs,
        "epoch_loop.batch_progress": {**_progress(batches, batch), "is_last_batch": False},
        "epoch_loop.val_loop.batch_progress": {**_progress(0, 0), "is_last_batch": False},
        "epoch_loop.state_dict": {"_batches_that_stepped": batches},
    }


def _progress(total: int, current: int) -> dict[str, dict[str, int]]:
    """Lightning's counters of something that is complete so and so many times."""
    words = ("ready", "started", "processed", "completed")
    return {"total": dict.fromkeys(words, total), "current": dict.fromkeys(words, current)}


def _validate(trainer: pl.Trainer) -> None:
    """The validation that belongs after the last training step, as Lightning's training loop runs it."""
    connector = trainer._logger_connector
    first_iteration = connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter = first_iteration


def _hide_events_after(trainer: pl.Trainer, step: int) -> None:
    """Let TensorBoard forget what the interrupted run logged after this step: it is logged again."""
    for run_logger in trainer.loggers:
        if isinstance(run_logger, TensorBoardLogger):
            restart = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
            run_logger.experiment.file_writer.add_event(restart)


def _random_state(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    """PyTorch's global generators. Nothing here draws from them in a training step; a layer of a user's may."""
    state = {_CPU: torch.get_rng_state()}
    device = trainer.strategy.root_device
    if device.type == "cuda":
        state[_DEVICE] = torch.cuda.get_rng_state(device)
    return state


def _restore_random_state(trainer: pl.Trainer, state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state[_CPU])
    device = trainer.strategy.root_device
    if _DEVICE in state and device.type == "cuda":
        torch.cuda.set_rng_state(state[_DEVICE], device)


def _own_buffers(pl_module: pl.LightningModule) -> dict[str, torch.Tensor]:
    """Saved buffers, which DDP here does not broadcast; empty on one process, where `state_dict` has them all."""
    if not distributed.is_distributed():
        return {}
    saved = pl_module.state_dict()
    return {name: buffer.detach().cpu().clone() for name, buffer in pl_module.named_buffers() if name in saved}


def _report_other_devices(trainer: pl.Trainer, pl_module: pl.LightningModule, saved: dict[str, Any]) -> None:
    """Say what stays and what does not when the number of devices changed."""
    if not trainer.is_global_zero:
        return
    share = getattr(trainer.datamodule, "global_batch_size", 0) // trainer.world_size
    micro_batch = min(share, getattr(pl_module, "micro_batch_size", None) or share)
    logger.warning(
        "saved on %d device(s), continuing on %d. The same: global batch, order of images, crops, step count. "
        "Different: each device takes %d images a step in micro-batches of %d, which BatchNorm and the entropy penalty "
        "see; BatchNorm's running statistics and random generators begin as the first device's; sums round differently",
        saved["devices"],
        trainer.world_size,
        share,
        micro_batch,
    )
