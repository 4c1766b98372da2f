"""A training of a generator that is interrupted and continued is bitwise the one that was not."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from small_generator_training import data, module, trainer

from open_magvit2.common import checkpoints
from open_magvit2.generators.schedules import WarmupLinear
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

    def _crash(self, run, *_) -> None:
        if run.global_step == self.step:
            raise Crash


def fit(folder, kind, *callbacks, tokens, continued=False):
    """Ten steps over three epochs with dropout and EMA, validating every third, saving every second."""
    parts = [ExponentialMovingAverage(0.9), TrainingHealth(), *callbacks]
    parts += [TrainingCheckpoint(str(folder), every_steps=2), ExactResumption()]
    training = module(kind, schedule=WarmupLinear(10, 3))
    run = trainer(folder, callbacks=parts, enable_checkpointing=True, max_steps=10, log_every_n_steps=1)
    torch.rand(7 if continued else 3)  # a continued process draws from another state
    run.fit(training, data(tokens), ckpt_path=folder / "last.ckpt" if continued else None)


def content(folder):
    found = checkpoints.read(folder / "last.ckpt")
    del found["callbacks"]["TrainingCheckpoint"]["dirpath"]
    return found


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_run_that_is_killed_continues_bitwise(tmp_path, kind):
    fit(tmp_path / "whole", kind, tokens=tmp_path)
    folder, continued = tmp_path / "interrupted", False
    for hook, step in (("on_before_optimizer_step", 3), ("on_train_batch_start", 5), ("on_validation_batch_start", 9)):
        with pytest.raises(Crash):
            fit(folder, kind, CrashAt(hook, step), tokens=tmp_path, continued=continued)
        continued = True
    fit(folder, kind, tokens=tmp_path, continued=True)
    whole = content(tmp_path / "whole")
    assert {"state_dict", "current_model_state", "optimizer_states", "open_magvit2_generator"} <= set(whole)
    assert checkpoints.differences(whole, content(folder)) == []
