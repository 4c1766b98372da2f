"""The command line trains any LightningModule on any LightningDataModule, with every callback and without any."""

import csv
import os
import re
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from commands import ROOT, run

from open_magvit2.common import checkpoints
from open_magvit2.training.cli import main
from open_magvit2.training.record import TrainingRecord, num_samples, record_of


class Regression(pl.LightningModule):
    """A linear layer; knows nothing of this package."""

    def __init__(self, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        loss = (self.layer(batch[0]) - batch[1]).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("validation/error", (self.layer(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


class Points(pl.LightningDataModule):
    """24 points in batches of 4."""

    def train_dataloader(self):
        points = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(points, points.sum(1, keepdim=True)), 4)

    val_dataloader = train_dataloader


class Shuffled(Points):
    """The points in an order and with noise that PyTorch's global generator draws."""

    def train_dataloader(self):
        return torch.utils.data.DataLoader(super().train_dataloader().dataset, 4, shuffle=True)


class Noisy(Regression):
    """Regression with dropout."""

    def training_step(self, batch, batch_idx):
        return super().training_step((torch.nn.functional.dropout(batch[0], 0.2), batch[1]), batch_idx)


SECTIONS = {
    "ema": {"decay": 0.5},
    "health": {},
    "checkpoint": {"every_steps": 3, "monitor": "validation/error", "mode": "min"},
    "resumption": {},
    "progress": {},
    "images": {},
    "skipped_images": {},
}


def fit(folder: Path, max_steps: int, sections: dict | None = None, *flags: str) -> pl.Trainer:
    config = {
        "model": {"class_path": "test_any_module.Regression"},
        "data": {"class_path": "test_any_module.Points"},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": max_steps,
            "log_every_n_steps": 1,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "log"}},
        },
        **(sections or {}),
    }
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    return main(["fit", "--config", str(folder / "mine.yaml"), *flags]).trainer


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch):
    """The command line under test is the one given, not pytest's."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


def logged(run: pl.Trainer, name: str) -> list[float]:
    with open(f"{run.log_dir}/metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_plain_module_trains_with_every_callback_and_resumes_bitwise(tmp_path, capsys, caplog):
    whole = fit(tmp_path / "whole", 18, SECTIONS)
    assert len(logged(whole, "loss")) == 18
    assert len(logged(whole, "train/samples_per_second")) == 18
    screen = capsys.readouterr().err
    assert "samples/s=" in screen
    assert "loss=" in screen
    assert "validation at step 18: error" in screen
    begun = fit(tmp_path / "parts", 6, SECTIONS)  # an epoch
    continued = fit(tmp_path / "parts", 18, SECTIONS, "--ckpt_path", "last")
    assert continued.global_step == 18
    assert "cannot continue within an epoch" not in caplog.text
    last = [checkpoints.read(f"{run.log_dir}/checkpoints/last.ckpt") for run in (whole, continued)]
    for weights in ("state_dict", "current_model_state", "optimizer_states"):
        assert checkpoints.differences(*(content[weights] for content in last)) == []
    assert checkpoints.differences(last[0]["state_dict"], last[0]["current_model_state"]) != []  # the averages
    assert Path(f"{begun.log_dir}/checkpoints/best.ckpt").exists()


def test_a_loader_that_draws_its_order_continues_bitwise_after_an_epoch(tmp_path, caplog):
    own = ("--model", "test_any_module.Noisy", "--data", "test_any_module.Shuffled")
    whole = fit(tmp_path / "whole", 18, SECTIONS, *own)
    begun = fit(tmp_path / "parts", 12, SECTIONS, *own)  # two epochs
    before = logged(begun, "loss")
    continued = fit(tmp_path / "parts", 18, SECTIONS, *own, "--ckpt_path", "last")
    last = [checkpoints.read(f"{run.log_dir}/checkpoints/last.ckpt") for run in (whole, continued)]
    assert checkpoints.differences(*(content["state_dict"] for content in last)) == []
    kept = Path(continued.log_dir) / "metrics_until_1.csv"  # Lightning's logger begins its file anew
    assert str(kept) in caplog.text
    assert before + logged(continued, "loss") == logged(whole, "loss")
    assert kept.read_text().count("\n") > 12


def test_the_example_of_the_documentation_runs_and_continues(tmp_path):
    python, configuration = re.findall(
        r"```(?:python|yaml)\n(.*?)```", (ROOT / "docs/training.md").read_text(), re.DOTALL
    )
    (tmp_path / "mine.py").write_text(python)
    (tmp_path / "mine.yaml").write_text(configuration)
    command = [sys.executable, ROOT / "scripts/train.py", "fit", "--config", "mine.yaml", "--ckpt_path", "last"]
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    first = run(*command, folder=tmp_path, PYTHONPATH=paths)
    assert "training begins" in first.stderr
    second = run(*command, "--trainer.max_steps", "66", folder=tmp_path, PYTHONPATH=paths)
    assert "step_000000060.ckpt" in second.stderr
    assert "samples/s" in second.stderr


def test_it_trains_without_any_callback_of_ours(tmp_path):
    run = fit(tmp_path, 3)
    assert run.global_step == 3
    assert {type(c).__module__.split(".")[2] for c in run.callbacks if type(c).__module__.startswith("open_mag")} <= {
        "cli",
    }


def test_a_module_without_a_record_has_an_empty_one():
    record = record_of(Regression())
    assert record == TrainingRecord()
    assert (dict(record.latest), record.codebook_size) == ({}, None)


@pytest.mark.parametrize(
    ("batch", "number"),
    [
        (torch.zeros(5, 3), 5),
        ({"path": ["a", "b"], "image": torch.zeros(2, 3)}, 2),
        ((torch.zeros(4), torch.zeros(9)), 4),
        ([{"x": torch.zeros(3)}], 3),
        ("text", 0),
    ],
)
def test_samples_of_a_batch(batch, number):
    assert num_samples(batch) == number
