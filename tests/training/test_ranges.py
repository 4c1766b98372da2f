"""Numbers out of range are refused by the argument's name, before anything is built on them."""

import math

import pytest

from open_magvit2.training.adversarial import AdversarialTraining
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.image_grid import ImageGrid
from open_magvit2.training.launch import main
from open_magvit2.training.progress import TrainingProgress
from open_magvit2.training.schedules import Constant, StepDrop, WarmupCosine


class Training(AdversarialTraining):
    """Nothing to train."""

    generator = last_layer = generate = None


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        (Training, {"micro_batch_size": None}, "micro_batch_size"),
        (Training, {"learning_rate": -1e-4}, "learning_rate"),
        (Training, {"learning_rate": math.nan}, "learning_rate"),
        (Training, {"betas": (0.5, 1.0)}, "betas"),
        (Training, {"gradient_clip_norm": -1.0}, "gradient_clip_norm"),
        (Constant, {"warmup_steps": -1}, "warmup_steps"),
        (Constant, {"warmup_steps": 1.5}, "warmup_steps"),
        (StepDrop, {"drop_steps": [3], "factor": -0.1}, "factor"),
        (StepDrop, {"drop_steps": [3, 4.5]}, "drop_steps"),
        (WarmupCosine, {"total_steps": 3, "warmup_steps": 3}, "total_steps"),
        (WarmupCosine, {"total_steps": 3, "final_factor": 2.0}, "final_factor"),
        (ExponentialMovingAverage, {"decay": 1.0}, "ema.decay"),
        (ExponentialMovingAverage, {"start_step": None}, "ema.start_step"),
        (ExponentialMovingAverage, {"raw_batches": -1}, "ema.raw_batches"),
        (TrainingHealth, {"codebook_from_step": -1}, "health.codebook_from_step"),
        (TrainingHealth, {"stop_after_skipped": 2.0}, "health.stop_after_skipped"),
        (TrainingHealth, {"on_collapse": "wait"}, "health.on_collapse"),
        (TrainingProgress, {"refresh_seconds": -1.0}, "progress.refresh_seconds"),
        (ImageGrid, {"num_images": 0}, "images.num_images"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_number_out_of_range_is_refused_by_name(kind, arguments, name):
    with pytest.raises(ValueError, match=rf"{name} must be .*, got "):
        kind(**arguments)


@pytest.mark.parametrize("flags", [["--processes", "0"], ["--processes", "1", "--nodes", "0"], ["--processes", "1"]])
def test_launch_refuses_what_starts_no_process(capsys, flags):
    command = [] if flags == ["--processes", "1"] else ["true"]
    with pytest.raises(SystemExit) as refusal:
        main([*flags, *command])
    assert refusal.value.code == 2
    assert "expected --processes and --nodes of at least 1" in capsys.readouterr().err
