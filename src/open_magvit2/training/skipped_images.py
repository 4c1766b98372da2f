"""Training images that could not be read and were replaced: named in the run's folder, counted, limited.

Each batch carries the names (`protocols.Sample`), so that the count depends on the batches that were trained on, not on
what a worker process had loaded ahead: a resumed run counts what an uninterrupted one does.
"""

import logging
from collections.abc import Sized
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from open_magvit2.common import distributed
from open_magvit2.common.files import write_atomically
from open_magvit2.training.resume.checkpointing import save_and_stop

logger = logging.getLogger(__name__)

FILE_NAME = "skipped_images.txt"
_FEWEST = 10  # of a stream without a length, where the first images say little about the share


class SkippedImages(Callback):
    """Lets a data module replace unreadable training images, and reports each of them.

    At the trainer's log steps it logs data/skipped, the number of different files skipped so far over all ranks and
    epochs, and adds new ones to skipped_images.txt in the run's folder, a line each: path, tab, cause. Once they are
    more than `max_skipped_share` of the images, it saves the state and stops the training on all ranks.

    It works with any data module that has `max_skipped_share`, `replace_unreadable` and `train`, and whose batches have
    "skipped"; it does nothing with others. Where `train` has no length, the share is of the images trained on so far,
    and ten may be skipped before it counts; `global_batch_size` says how many a step has.
    """

    def __init__(self) -> None:
        self._causes: dict[str, str] = {}  # by path; the same on all ranks
        self._new: dict[str, str] = {}  # what this rank met since the ranks last compared
        self._active = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Turn replacing on, before the loaders are made."""
        data = getattr(trainer, "datamodule", None)
        train = getattr(data, "train", None)
        self._active = stage == "fit" and train is not None and getattr(data, "max_skipped_share", 0.0) > 0.0
        if self._active:
            data.replace_unreadable = True
            self._has_length = isinstance(train, Sized)
            self._num_images = len(train) if self._has_length else 0
            self._max_share, self._batch_size = data.max_skipped_share, getattr(data, "global_batch_size", 1)
            self._device = trainer.strategy.root_device

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the names from before the interruption: a continued run has a folder and a file of its own."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / FILE_NAME
        if self._active and len(self._causes) > self._max_share * self._num_images:
            self._causes = {}  # this callback stopped the run: files may have been replaced or excluded since
        if self._causes and trainer.is_global_zero:
            self._write()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._active or "skipped" not in batch:
            return
        if not self._has_length:
            self._num_images = trainer.global_step * self._batch_size
        for line in "\n".join(batch["skipped"]).split("\n"):
            path, _, cause = line.partition("\t")
            if path and path not in self._causes:
                self._new[path] = cause
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._compare_ranks()
            for run_logger in trainer.loggers:
                run_logger.log_metrics({"data/skipped": len(self._causes)}, step=trainer.global_step)
            self._check_share(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run may end between two log steps."""
        if self._active:
            self._compare_ranks()
            self._check_share(trainer)

    def state_dict(self) -> dict[str, Any]:
        """A collective call, as saving a checkpoint is: rank 0's file holds what all ranks met."""
        if self._active:
            self._compare_ranks()
        return {"causes": dict(self._causes)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._causes = dict(state_dict["causes"])

    def _compare_ranks(self) -> None:
        """Make what each rank met known to all; one small sum where there is nothing new."""
        if not distributed.all_reduce_sum(torch.tensor(len(self._new), device=self._device)):
            return
        met = {path: cause for new in distributed.all_gather_object(self._new) for path, cause in new.items()}
        self._new = {}
        self._causes |= met
        if distributed.rank() == 0:
            self._write()
            path, cause = next(iter(met.items()))
            others = f" and {len(met) - 1} more" if len(met) > 1 else ""
            logger.warning("skipped %s (%s)%s; %s: %s", path, cause, others, self._so_far(), self._path)

    def _so_far(self) -> str:
        number, images = len(self._causes), max(1, self._num_images)
        return f"{number} of {images} training images so far ({number / images:.2%})"

    def _check_share(self, trainer: pl.Trainer) -> None:
        fewest = 0 if self._has_length else _FEWEST
        if len(self._causes) > max(fewest, self._max_share * self._num_images):
            save_and_stop(
                trainer,
                f"too many training images cannot be read: {self._so_far()}, more than max_skipped_share "
                f"{self._max_share:g} allows; {self._path} has their names. Replace the files, or leave them out with "
                "`exclude` (scripts/check_dataset.py finds all of them and writes the list), or raise "
                "data.init_args.max_skipped_share",
            )

    def _write(self) -> None:
        write_atomically(self._path, "".join(f"{path}\t{cause}\n" for path, cause in self._causes.items()))
