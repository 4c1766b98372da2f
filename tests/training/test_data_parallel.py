"""Buffers of a user's classes stay equal on all devices; those of this package agree by themselves."""

import logging

import pytorch_lightning as pl
import torch
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
