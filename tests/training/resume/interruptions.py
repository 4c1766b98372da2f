"""Small trainings that are interrupted and continued, for the tests of resumption and the processes they start."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from image_tokenizer import small_training
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import DummyLogger

from open_magvit2.common import checkpoints
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.transforms import ResizeRandomCrop
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint
from open_magvit2.training.resume.state import ExactResumption


class Crash(RuntimeError):  # noqa: N818 - not a mistake of the program
    """Stands for whatever ends a process; nothing is saved because of it."""


class CrashAt(Callback):
    """Raises in one hook at one global step."""

    def __init__(self, hook: str, step: int) -> None:
        self.step = step
        setattr(self, hook, self._crash)

    def _crash(self, trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Crash


class Record(DummyLogger, Callback):
    """Every logged scalar and the images of every step; what is logged twice must be the same both times."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars: dict[tuple[str, int], float] = {}
        self.images: dict[int, list[int]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self._note(self.scalars, (name, step), float(value))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        # images and crops
        value = [*batch["index"].tolist(), *batch["image"].flatten(1).sum(1, dtype=torch.int64).tolist()]
        self._note(self.images, trainer.global_step, value)

    @staticmethod
    def _note(store: dict, key: Any, value: Any) -> None:
        assert store.setdefault(key, value) == value, f"{key}: first {store[key]}, then {value}"


class RandomCrops(SyntheticImages):
    """Images a little larger than what is trained on, so that crops are random."""

    def __init__(self, num_images: int) -> None:
        super().__init__(num_images, 40)


def data(num_images: int = 35, global_batch_size: int = 8, num_workers: int = 0) -> ImageDataModule:
    """Four steps an epoch, three images left over."""
    validation = SyntheticImages(7, 32, split="validation")
    transform = ResizeRandomCrop(32, flip=True)
    return ImageDataModule(
        RandomCrops(num_images), validation, 32, global_batch_size, 4, transform, num_workers=num_workers
    )


def fit(
    folder: Path,
    record: Record,
    *callbacks: Callback,
    continued: bool = False,
    datamodule: ImageDataModule | None = None,
    saving: dict[str, Any] | None = None,
    module: dict[str, Any] | None = None,
    **options: Any,
) -> pl.Trainer:
    """Train 10 steps with everything that has a state, validating every 3, from the start or from last.ckpt."""
    saving = {"every_steps": 1, "monitor": "validation/psnr_image", **(saving or {})}
    parts = [record, ExponentialMovingAverage(0.9), TrainingHealth(codebook_from_step=100), *callbacks]
    parts += [TrainingCheckpoint(str(folder), **saving), ExactResumption()]
    options = {"max_steps": 10, "val_check_interval": 3, "log_every_n_steps": 1, **options}
    run = small_training.trainer(folder, logger=record, callbacks=parts, enable_checkpointing=True, **options)
    training = small_training.module(usage_window=4, metrics=[PSNR()], **(module or {}))
    run.fit(training, datamodule or data(), ckpt_path=folder / "last.ckpt" if continued else None)
    return run


def content(path: Path) -> dict[str, Any]:
    """A checkpoint without its folder."""
    found = checkpoints.read(path)
    del found["callbacks"]["TrainingCheckpoint"]["dirpath"]
    return found
