"""Buffers of a user's classes stay equal on all devices; those of this package agree by themselves."""

import logging
import sys

import pytorch_lightning as pl
import torch
from commands import ROOT, run
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from open_magvit2.losses.lecam import LeCAM
from open_magvit2.training import lightning_internals
from open_magvit2.training.data_parallel import keep_buffers_equal


class Codebook(nn.Module):
    """Moving averages of one device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("averages", torch.zeros(3))


def test_buffers_of_a_user_are_broadcast_on_several_devices(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(lightning_internals, "broadcast_buffers", asked.append)
    ours, mine = pl.LightningModule(), pl.LightningModule()
    ours.parts = nn.ModuleList([LeCAM(), nn.BatchNorm2d(3), nn.Linear(2, 2)])
    mine.parts = nn.ModuleList([LeCAM(), Codebook()])
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    one, two = pl.Trainer(devices=1, **options), pl.Trainer(devices=2, strategy=DDPStrategy(), **options)
    keep_buffers_equal(two, ours)
    keep_buffers_equal(one, mine)
    assert asked == []
    with caplog.at_level(logging.INFO):
        keep_buffers_equal(two, mine)
    assert asked == [two]
    assert f"before every step: {__name__}.Codebook" in caplog.text


def test_two_processes_begin_every_step_with_the_same_buffers(tmp_path):
    words = ["fit", "--model", "drifting.Drifting", "--data", "drifting.Points", "--trainer.max_steps", "4"]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    words += ["--trainer.enable_checkpointing", "false", "--trainer.logger", "false"]
    path = f"{ROOT / 'src'}:{ROOT / 'tests' / 'training'}"
    result = run(sys.executable, ROOT / "scripts/train.py", *words, folder=tmp_path, PYTHONPATH=path)
    assert "before every step: drifting.Average" in result.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(first) == 4
    assert first[-1].abs().sum() > 0
    assert torch.equal(first, second)
