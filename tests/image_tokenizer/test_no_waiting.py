"""Between two logs a training step never waits for the device: nothing asks for a value of a tensor."""

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from small_training import data, module, trainer
from waiting import Guard, RefuseWaiting, Stop

from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.progress import TrainingProgress
from open_magvit2.training.skipped_images import SkippedImages


@pytest.mark.usefixtures("random_vgg")
@pytest.mark.parametrize(("precision", "perceptual"), [("32-true", 1.0), ("16-mixed", 0.0)])
def test_steps_between_logs_ask_for_no_value(tmp_path, precision, perceptual):
    guard = Guard()
    ours = [ExponentialMovingAverage(), TrainingHealth(), TrainingProgress(log_seconds=1000), SkippedImages()]
    options = {"callbacks": [guard, *ours, Stop(guard)], "log_every_n_steps": 3}
    if precision == "16-mixed":
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", 2.0**10))]
    losses = {"objective": {"perceptual_weight": perceptual}, "adversary": {"adaptive_weight": True}}
    training = module(**losses, gradient_clip_norm=1.0, recompute="activations")
    trainer(tmp_path, max_steps=3, limit_val_batches=0, **options).fit(training, data())
    assert guard.guarded == 2


def test_the_guard_sees_a_host_that_waits():
    with RefuseWaiting(), pytest.raises(RuntimeError, match="makes the host wait"):
        float(torch.ones(()))
    with RefuseWaiting(), pytest.raises(RuntimeError, match="makes the host wait"):
        torch.ones(3)[torch.tensor([True, False, True])]
