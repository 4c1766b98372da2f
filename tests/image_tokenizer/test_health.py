"""Steps that are skipped are counted and, too many in a row, end the run; a collapsed codebook is said once."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import MixedPrecision
from small_training import data, module, trainer

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth, TrainingStopped
from open_magvit2.training.resume.checkpoint_files import newest_whole
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint


class Poison(Callback):
    """Makes a gradient NaN at some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step in self.steps:
            next(pl_module.tokenizer.parameters()).grad.fill_(float("nan"))


def fit(folder: Path, *callbacks: Callback, training=None, ckpt_path=None, **options):
    """Eight steps, logged at every second one."""
    options = {"max_steps": 8, "log_every_n_steps": 2, "limit_val_batches": 0, **options}
    run = trainer(folder, logger=CSVLogger(folder, name="", version=""), callbacks=list(callbacks), **options)
    run.fit(training or module(discriminator=False, usage_window=2), data(), ckpt_path=ckpt_path)
    run.logger.save()
    return run


def logged(folder: Path, name: str) -> list[float]:
    """The values of a scalar in the order they were logged."""
    with open(folder / "metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.endswith("health") and r.levelno == logging.WARNING]


def test_skipped_steps_are_counted_and_said(tmp_path, caplog):
    run = fit(tmp_path, Poison(0, 2, 3, 6), TrainingHealth(), max_steps=7)
    assert run.global_step == 7
    assert logged(tmp_path, "train/skipped_steps") == [1, 3, 3, 4]
    messages = said(caplog)
    assert [message.split(" since")[0] for message in messages] == [
        "step 2: 1 step(s)",
        "step 4: 2 step(s)",
        "step 7: 1 step(s)",
    ]
    assert "25 in a row stop" in messages[0]


def test_counts_go_on_after_a_resumption(tmp_path):
    run = fit(tmp_path, Poison(1, 3), TrainingHealth(stop_after_skipped=3), max_steps=4)
    run.save_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(TrainingStopped, match="in the last 3 steps"):  # one before, two after
        fit(
            tmp_path,
            *(Poison(4, 5), TrainingHealth(stop_after_skipped=3)),
            max_steps=8,
            ckpt_path=tmp_path / "first.ckpt",
        )


def test_too_many_in_a_row_stop_with_a_message_and_a_state_that_continues(tmp_path):
    averaging = ExponentialMovingAverage(decay=0.5)
    callbacks = [Poison(*range(2, 7)), averaging, TrainingHealth(stop_after_skipped=3)]
    with pytest.raises(TrainingStopped) as caught:
        fit(tmp_path, *callbacks)
    message, path = str(caught.value), tmp_path / "stopped-at-6.ckpt"  # three since step 4, read at step 6
    for part in (
        "stopped at step 6",
        "in the last 4 steps",
        "of the generator",
        "learning_rate",
        f"--ckpt_path {path}",
        "begin anew",  # nothing was saved before
    ):
        assert part in message
    for weights in ("raw", "ema"):
        assert all(p.isfinite().all() for p in load_tokenizer(path, weights=weights).parameters())
    again = [Poison(6), ExponentialMovingAverage(decay=0.5), TrainingHealth(stop_after_skipped=3)]
    assert fit(tmp_path, *again, ckpt_path=path).global_step == 8  # one more is the first of a new count


def test_files_saved_while_steps_were_skipped_rank_below_those_before(tmp_path):
    saving = TrainingCheckpoint(str(tmp_path), every_steps=1, keep_last=2)
    with pytest.raises(TrainingStopped) as caught:  # steps 3 to 6 are skipped: the weights are those of step 2
        fit(
            *(tmp_path, Poison(*range(2, 7)), TrainingHealth(stop_after_skipped=3), saving),
            enable_checkpointing=True,
        )
    assert f"--ckpt_path last continues from {tmp_path / 'step_000000001.ckpt'}" in str(caught.value)
    names = ["last.ckpt", "step_000000001.ckpt", *(f"stopped-at-{step}.ckpt" for step in range(2, 7))]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == names
    assert newest_whole(tmp_path.glob("*.ckpt")).name == "step_000000001.ckpt"
    assert checkpoints.read(tmp_path / "last.ckpt")["global_step"] == 1


def test_scattered_skips_and_a_run_that_recovers_do_not_stop(tmp_path):
    run = fit(tmp_path, Poison(0, 1, 2, 4, 5, 6), TrainingHealth(stop_after_skipped=4))
    assert run.global_step == 8


def test_overflows_under_a_loss_scale_are_counted_apart_and_are_no_warning(tmp_path, caplog):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run = fit(tmp_path, Poison(1, 2, 4), TrainingHealth(), plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    assert run.global_step == 8
    assert logged(tmp_path, "train/overflows") == [1, 2, 3, 3]
    assert logged(tmp_path, "train/skipped_steps") == []
    assert scaler.get_scale() == 2.0**7
    assert said(caplog) == []


def test_a_loss_scale_that_keeps_falling_stops_too(tmp_path):
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    with pytest.raises(TrainingStopped, match="in the last 6 steps"):
        fit(tmp_path, Poison(*range(8)), TrainingHealth(stop_after_skipped=5), plugins=[plugin])


def test_a_training_without_trouble_says_nothing(tmp_path, caplog):
    fit(tmp_path, TrainingHealth(), log_every_n_steps=1)
    assert said(caplog) == []


def collapsed():
    """A tokenizer all of whose latents are positive: one code."""
    training = module(discriminator=False, usage_window=2, learning_rate=1e-6)
    torch.nn.init.constant_(training.tokenizer.encoder.conv_out.bias, 50.0)
    return training


def test_a_collapsed_codebook_is_said_once_with_what_to_try(tmp_path, caplog):
    fit(tmp_path, TrainingHealth(codebook_from_step=3, lowest_utilization=0.02), training=collapsed())
    (message,) = said(caplog)
    for part in ("step 4", "1.56% of its 64 codes", "0.00 of 6.00 bits", "codebook_entropy", "entropy_annealing"):
        assert part in message
    assert set(logged(tmp_path, "train/codebook_entropy_bits")) == {0.0}


def test_a_collapsed_codebook_can_stop(tmp_path):
    with pytest.raises(TrainingStopped, match="stopped at step 2: the codebook has collapsed"):
        fit(tmp_path, TrainingHealth(codebook_from_step=0, on_collapse="stop"), training=collapsed())


def test_settings_out_of_range_are_refused():
    for wrong in ({"stop_after_skipped": 0}, {"lowest_entropy": 2.0}, {"lowest_utilization": -0.1}):
        with pytest.raises(ValueError, match=f"health.{next(iter(wrong))} must"):
            TrainingHealth(**wrong)
