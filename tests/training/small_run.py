"""A training of one number on a folder of images, some of them broken; also run by itself as two processes.

Usage: small_run.py FOLDER OUTPUT NUM_WORKERS
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from open_magvit2.common.distributed import all_gather_object, leave_process_group
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.training.skipped_images import SkippedImages

NUM_IMAGES = 48


def make_images(folder: Path, broken: set[int]) -> None:
    """Images 00.png .. 47.png for training, broken ones truncated, and four whole ones for validation."""
    for split, number in (("train", NUM_IMAGES), ("val", 4)):
        (folder / split).mkdir(parents=True)
        for index in range(number):
            path = folder / split / f"{index:02d}.png"
            Image.new("RGB", (20, 16), (index, 0, 0)).save(path)
            if split == "train" and index in broken:
                path.write_bytes(path.read_bytes()[:50])


class OneNumber(pl.LightningModule):
    """Learns nothing; remembers which images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shown: list[list[int]] = []
        self.skipped: list[tuple[int, str]] = []  # step, path

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        self.shown.append(batch["index"].tolist())
        lines = [line for text in batch["skipped"] for line in text.split("\n") if line]
        self.skipped += [(len(self.shown), line.split("\t")[0]) for line in lines]
        return (self.weight * batch["image"].float().mean()).sum()

    def validation_step(self, batch: Any, batch_index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(folder: Path, num_workers: int = 0, **options: Any) -> ImageDataModule:
    """Global batches of 8, six an epoch."""
    options = {"max_skipped_share": 0.5, **options}
    train, validation = ImageFolder(folder / "train"), ImageFolder(folder / "val")
    return ImageDataModule(train, validation, 16, 8, 2, num_workers=num_workers, **options)


def trainer(output: Path, **options: Any) -> pl.Trainer:
    """Logs every second step into OUTPUT/csv/version_N/metrics.csv."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "default_root_dir": output,
        "logger": CSVLogger(output, name="csv", flush_logs_every_n_steps=1),
        "callbacks": [SkippedImages()],
        "log_every_n_steps": 2,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return pl.Trainer(**(defaults | options))


def main(folder: Path, output: Path, num_workers: int) -> None:
    """Two epochs on two processes; rank 0 writes what both saw."""
    torch.set_num_threads(1)
    module = OneNumber()
    saving = ModelCheckpoint(output, "{step}", every_n_train_steps=3, save_top_k=-1)
    callbacks = [SkippedImages(), saving]
    run = trainer(output, devices=2, strategy="ddp", callbacks=callbacks, enable_checkpointing=True)
    run.fit(module, datamodule=data(folder, num_workers))
    shown, skipped = all_gather_object(module.shown), all_gather_object(module.skipped)
    known = all_gather_object(callbacks[0].state_dict()["causes"])
    if run.is_global_zero:
        (output / "seen.json").write_text(json.dumps({"shown": shown, "skipped": skipped, "known": known}))
    leave_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
