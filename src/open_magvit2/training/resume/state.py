"""Exact resumption: a run continued from a checkpoint ends bitwise where the uninterrupted one ends.

Lightning restores weights, optimizers, loss scale and callbacks. `ExactResumption` adds what each rank has of its own
(BatchNorm's statistics, PyTorch's random generators), puts Lightning's counters between two training steps, and makes
up for a validation that was due when the run stopped. The order of the data is the data module's: one that saves its
position by `state_dict` and has `epoch_and_batch` continues within an epoch at the right sample.
"""

import logging
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from open_magvit2.common import distributed
from open_magvit2.training import lightning_internals

logger = logging.getLogger(__name__)

KEY = "resumption"  # of a checkpoint


class ExactResumption(Checkpoint):
    """Saves and restores what Lightning does not, for any LightningModule and data.

    It is a `Checkpoint`, because Lightning calls those last. A callback with a copy of the module's buffers may offer
    `copy_buffers(module)`, which is called when this rank's buffers are restored.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._max_steps: int | None = None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Gather every rank's own state; a collective call under DDP."""
        batches = lightning_internals.batches_done(trainer)
        steps = trainer.global_step if pl_module.automatic_optimization else batches
        epoch, batch = lightning_internals.epoch_and_batch(trainer)
        lightning_internals.set_position(checkpoint, epoch, batch, batches, steps)
        checkpoint[KEY] = {
            "batches": batches,
            "batch": batch,
            "steps": steps,
            "validation_pending": lightning_internals.validation_follows(trainer),
            "devices": trainer.world_size,
            "ranks": distributed.all_gather_object(
                {"random": _random_state(trainer.strategy.root_device), "buffers": _own_buffers(pl_module)}
            ),
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        raw = checkpoint.get("current_model_state")
        if raw is not None and not any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):
            pl_module.load_state_dict(raw)  # `state_dict` holds averages, which this run is without
        if KEY not in checkpoint:
            logger.warning("the checkpoint comes from another program: weights continue, the order of data may not")
            return
        self._saved = saved = {"steps": checkpoint[KEY]["batches"], "batch": 0, **checkpoint[KEY]}
        if hasattr(trainer.datamodule, "epoch_and_batch"):  # another batch size has other batches
            epoch, batch = trainer.datamodule.epoch_and_batch(saved["batches"])
            lightning_internals.set_position(checkpoint, epoch, batch, saved["batches"], saved["steps"])
        elif saved["batch"] > 0:
            name = type(trainer.datamodule or pl_module).__name__
            logger.warning("%s cannot continue within an epoch: its samples begin anew", name)
        # Lightning does not know whether the loader continues at the right sample.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        max_steps = trainer.fit_loop.max_steps
        if saved["validation_pending"] and checkpoint["global_step"] >= max_steps >= 0:
            # Lightning would leave a training that is over before `on_train_start`, which runs the validation.
            self._max_steps = max_steps
            lightning_internals.set_max_steps(trainer, checkpoint["global_step"] + 1)
        for run_logger in trainer.loggers:  # TensorBoard forgets what the interrupted run logged: it is logged again
            if isinstance(run_logger, TensorBoardLogger) and trainer.is_global_zero:
                restart = Event(step=checkpoint["global_step"] + 1, session_log=SessionLog(status=SessionLog.START))
                run_logger.experiment.file_writer.add_event(restart)

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
        ranks = self._saved["ranks"]
        if len(ranks) == trainer.world_size:
            mine, device = ranks[trainer.global_rank], trainer.strategy.root_device
            torch.set_rng_state(mine["random"]["cpu"])
            if "device" in mine["random"] and device.type == "cuda":
                torch.cuda.set_rng_state(mine["random"]["device"], device)
            buffers = dict(pl_module.named_buffers())
            for name, value in mine["buffers"].items():
                buffers[name].copy_(value)
        elif trainer.is_global_zero:
            logger.warning(
                "saved on %d device(s), continuing on %d. Unchanged: global batch, order of samples, step count. "
                "Changed: the share of each device, which BatchNorm and the entropy penalty see; running statistics "
                "and random generators, which begin as the first device's; rounding of sums",
                self._saved["devices"],
                trainer.world_size,
            )
        for callback in trainer.callbacks:
            if hasattr(callback, "copy_buffers"):
                callback.copy_buffers(pl_module)
        logger.info("continuing after %d training steps", trainer.global_step)
        if self._saved["validation_pending"]:
            lightning_internals.validate(trainer)
        if self._saved["batch"] == 0 and not hasattr(trainer.datamodule, "epoch_and_batch"):
            lightning_internals.begin_data(trainer)  # a loader that draws its order draws it from here
        if self._max_steps is not None:
            lightning_internals.set_max_steps(trainer, self._max_steps)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._saved is not None:
            lightning_internals.set_logging_step(trainer, self._saved["steps"])
            self._saved = None


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """PyTorch's global generators, which e.g. dropout draws from."""
    on_device = {"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **on_device}


def _own_buffers(pl_module: pl.LightningModule) -> dict[str, torch.Tensor]:
    """Saved buffers, which DDP does not broadcast here; empty on one process, where `state_dict` has them all."""
    saved = pl_module.state_dict() if distributed.is_distributed() else {}
    return {name: buffer.detach().cpu().clone() for name, buffer in pl_module.named_buffers() if name in saved}
