"""Everything that this package uses of Lightning's internals, a function each.

These names may change with any release of Lightning, whose version pyproject.toml therefore bounds. A test in
tests/training/test_lightning_internals.py shows for each function what it relies on.
"""

import atexit
import inspect
import subprocess
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities import distributed as lightning_distributed
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from torch import nn


class CommandLine(LightningCLI):
    """LightningCLI whose private names have public ones."""

    def subcommand_parser(self) -> LightningArgumentParser:
        """The parser of the present subcommand's arguments."""
        return self._parser(self.subcommand)

    def run_subcommand(self, subcommand: str) -> None:
        """Run it, hooks included; for subclasses to wrap."""
        super()._run_subcommand(subcommand)

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_subcommand(subcommand)

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would read the whole file for hyperparameters, which ours do not hold."""


def keep_limits_whole() -> None:
    """Let the command line read a limit of 1 batch as 1, not as 1.0, which is all batches.

    Lightning says Optional[Union[int, float]], and typing answers with an equal type that some package has made before,
    maybe with float first.
    """
    annotations = inspect.unwrap(pl.Trainer.__init__).__annotations__
    annotations["overfit_batches"] = int | float
    annotations["limit_train_batches"] = annotations["limit_val_batches"] = int | float | None


def average_module(callback: WeightAveraging) -> nn.Module:
    """The copy of the LightningModule that holds the averages, during a fit."""
    return callback._average_model.module


def batches_done(trainer: pl.Trainer) -> int:
    """Training batches of the whole run whose step is over."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


def epoch_and_batch(trainer: pl.Trainer) -> tuple[int, int]:
    """The epoch to which the next training batch belongs, and the batches of this epoch that are done."""
    loop = trainer.fit_loop
    epoch, batches = loop.epoch_progress.current.ready - 1, loop.epoch_loop.batch_progress
    return (epoch + 1, 0) if batches.is_last_batch else (epoch, batches.current.processed)


def is_accumulating(trainer: pl.Trainer) -> bool:
    """Whether the batch that just ended was not followed by an optimizer step (`accumulate_grad_batches`)."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether a training step has just ended (`on_train_batch_end`) and a validation comes before the next one."""
    loop = trainer.fit_loop
    counts = loop.epoch_loop.batch_progress.total
    has_just_ended = trainer.training and counts.completed < counts.processed
    return has_just_ended and bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def set_position(checkpoint: dict[str, Any], epoch: int, batch: int, batches: int, steps: int) -> None:
    """Make the counters in a checkpoint say that training is between two steps.

    Lightning saves them as they are in the middle of its loop, and then repeats or skips parts of it. `epoch`, `batch`
    are those of `epoch_and_batch`, `batches` those of the whole run, `steps` that of `set_logging_step`.
    """
    epochs = _counts(epoch, epoch)
    for counts in epochs.values() if batch > 0 else ():
        counts |= {"ready": epoch + 1, "started": epoch + 1}
    checkpoint["epoch"] = epoch
    checkpoint["loops"]["fit_loop"] |= {
        "epoch_progress": epochs,
        "epoch_loop.batch_progress": {**_counts(batches, batch), "is_last_batch": False},
        "epoch_loop.val_loop.batch_progress": {**_counts(0, 0), "is_last_batch": False},
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
    }


def set_logging_step(trainer: pl.Trainer, steps: int) -> None:
    """Set the step axis of `self.log`. Lightning counts a validation that it skips on a restart as a step."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps


def set_max_steps(trainer: pl.Trainer, max_steps: int) -> None:
    """Let training end after another number of steps than the trainer was built with."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def validate(trainer: pl.Trainer) -> None:
    """Run a validation between two training steps, as Lightning's training loop runs it."""
    connector = trainer._logger_connector
    first_iteration = connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter = first_iteration


def begin_data(trainer: pl.Trainer) -> None:
    """Make the training loader's iterator anew, as Lightning does before every epoch but the first after a restart."""
    iter(trainer.fit_loop._data_fetcher)


def broadcast_buffers(trainer: pl.Trainer) -> None:
    """Let DDP copy the first device's buffers to the others before every step."""
    trainer.strategy._ddp_kwargs["broadcast_buffers"] = True


def skip_agreement_on_sigterm(trainer: pl.Trainer) -> None:
    """Remove Lightning's broadcast before every step, by which all ranks ask rank 0's device for a SIGTERM and wait."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def collective_timeout(trainer: pl.Trainer) -> timedelta | None:
    """Longest wait for the other ranks, as the DDP strategy was told; None for other strategies."""
    return getattr(trainer.strategy, "_timeout", None)


def keep_process_groups_at_exit() -> None:
    """Do not destroy NCCL's process groups at exit: after an error that may wait for ranks that are elsewhere."""
    atexit.unregister(getattr(lightning_distributed, "_destroy_dist_connection", None))


def started_processes(trainer: pl.Trainer) -> list[subprocess.Popen]:
    """The other ranks of this machine where Lightning's own launcher has started them, else an empty list.

    Lightning watches this very list, and kills this process up to 5 s after one in it has failed, unless it is cleared.
    """
    return getattr(trainer.strategy.launcher, "procs", [])


def _counts(total: int, current: int) -> dict[str, dict[str, int]]:
    """Lightning's counters of something that is complete so many times."""
    words = ("ready", "started", "processed", "completed")
    return {"total": dict.fromkeys(words, total), "current": dict.fromkeys(words, current)}
