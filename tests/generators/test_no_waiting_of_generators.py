"""Between two logs the training step of a generator never waits for the device."""

import pytest
from small_generator_training import data, module, trainer
from waiting import Guard, Stop

from open_magvit2.generators import autoregressive, masked
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.progress import TrainingProgress


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_steps_between_logs_ask_for_no_value(tmp_path, kind, monkeypatch):
    for room in (autoregressive, masked):  # it looks at labels on the CPU alone
        monkeypatch.setattr(room, "check_labels", lambda labels, num_classes: None)
    guard = Guard()
    ours = [ExponentialMovingAverage(), TrainingHealth(), TrainingProgress(log_seconds=1000)]
    options = {"callbacks": [guard, *ours, Stop(guard)], "log_every_n_steps": 3, "enable_progress_bar": True}
    trainer(tmp_path, max_steps=3, limit_val_batches=0, **options).fit(module(kind), data(tmp_path))
    assert guard.guarded == 2
