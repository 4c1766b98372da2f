"""Exact resumption of a LightningModule and a DataModule that share nothing with this package."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from open_magvit2.common import checkpoints
from open_magvit2.training import lightning_internals
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint
from open_magvit2.training.resume.state import ExactResumption


class Regression(pl.LightningModule):
    """Has a scheduler, running statistics and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.layers(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error", self.layers(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2), "interval": "step"}]


class Order:
    """Seven batches of four an epoch, in another order each time."""

    def __init__(self) -> None:
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return 7

    def __iter__(self):
        order = torch.randperm(28, generator=torch.Generator().manual_seed(self.epoch)).view(7, 4)[self.start :]
        self.epoch, self.start = self.epoch + 1, 0
        return iter(order.tolist())


class Points(pl.LightningDataModule):
    """Knows where it is: what `ExactResumption` asks of a data module."""

    def __init__(self) -> None:
        super().__init__()
        self.order = Order()

    def loader(self, **options: Any) -> DataLoader:
        points = torch.randn(28, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(points), generator=torch.Generator(), **options)

    def train_dataloader(self) -> DataLoader:
        return self.loader(batch_sampler=self.order)

    def val_dataloader(self) -> DataLoader:
        return self.loader(batch_size=14)

    def state_dict(self) -> dict[str, int]:
        return {"batches": lightning_internals.batches_done(self.trainer)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.order.epoch, self.order.start = self.epoch_and_batch(state["batches"])

    def epoch_and_batch(self, batches: int) -> tuple[int, int]:
        return divmod(batches, 7)


class Crash(Callback):
    """Ends training before a batch; nothing is saved because of it."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer, *_: Any) -> None:
        if lightning_internals.batches_done(trainer) == self.batch:
            raise InterruptedError


def fit(folder: Path, *callbacks: Callback, resume: bool = False, data: Any = None, **options: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    saving = TrainingCheckpoint(str(folder), every_steps=1, monitor="error", mode="min")
    defaults = {"accelerator": "cpu", "devices": 1, "max_steps": 12, "logger": False, "num_sanity_val_steps": 0}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    often = {"val_check_interval": 3, "check_val_every_n_epoch": None}
    run = pl.Trainer(**{**defaults, **quiet, **often, "callbacks": [*callbacks, saving, ExactResumption()], **options})
    run.fit(Regression(), data or Points(), ckpt_path=folder / "last.ckpt" if resume else None)
    return run


def last(folder: Path) -> dict[str, Any]:
    content = checkpoints.read(folder / "last.ckpt")
    del content["callbacks"]["TrainingCheckpoint"]["dirpath"]
    return content


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_plain_module_is_continued_bitwise_within_an_epoch(tmp_path, accumulate):
    fit(tmp_path / "whole", accumulate_grad_batches=accumulate)
    for batch in (2, 5, 7, 10, 11):  # with accumulation some of these are in the middle of a step, which is done again
        with pytest.raises(InterruptedError):
            fit(tmp_path / "parts", Crash(batch), resume=batch > 2, accumulate_grad_batches=accumulate)
    run = fit(tmp_path / "parts", resume=True, accumulate_grad_batches=accumulate)
    assert run.global_step == 12
    found = checkpoints.differences(last(tmp_path / "whole"), last(tmp_path / "parts"))
    # Lightning counts optimizer steps of the epoch as well, from a crash at its beginning on, and never reads that.
    assert [name for name in found if not name.startswith("loops.") or ".current." not in name] == []


def test_data_without_a_position_begins_its_epoch_anew(tmp_path, caplog):
    class Plain(pl.LightningDataModule):
        train_dataloader, val_dataloader, loader = Points.train_dataloader, Points.val_dataloader, Points.loader
        order = Order()

    fit(tmp_path, data=Plain(), max_steps=4)
    with caplog.at_level(logging.WARNING):
        run = fit(tmp_path, data=Plain(), resume=True)
    assert run.global_step == lightning_internals.batches_done(run) == 12
    assert caplog.text.count("Plain cannot continue within an epoch") == 1
