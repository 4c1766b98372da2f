"""Between two logs a training step never waits for the device: nothing asks for a value of a tensor.

What no operation shows on a CPU (`.tolist()`, `.cpu()`, `.numpy()`) fails on the tensors of test_one_device.py.
"""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision
from small_training import data, module, trainer
from torch.utils._python_dispatch import TorchDispatchMode

from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.progress import TrainingProgress
from open_magvit2.training.skipped_images import SkippedImages

# What `.item()`, `float()`, `if tensor:`, boolean masks and `unique` come down to: operations whose result's size or
# value the host has to know.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}
WAITING |= {"allclose", "bincount", "repeat_interleave"}
INDEXING = {"index", "index_put", "index_put_"}  # with a mask


class RefuseWaiting(TorchDispatchMode):
    """Raises where the host would wait for a CUDA device."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket._qualified_op_name.split("::")[1]
        by_mask = name in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in WAITING or by_mask:
            raise RuntimeError(f"{operation} makes the host wait for the device")
        return operation(*args, **(kwargs or {}))


class Guard(Callback):
    """Watches the steps that do not log, from the batch's start to the last callback's end of it."""

    def __init__(self) -> None:
        self.mode, self.guarded = None, 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps:
            self.mode = RefuseWaiting()
            self.mode.__enter__()

    def stop(self) -> None:
        if self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode, self.guarded = None, self.guarded + 1


class Stop(Callback):
    """The last callback: ends the guard's watch."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def on_train_batch_end(self, *_) -> None:
        self.guard.stop()

    def on_exception(self, *_) -> None:
        self.guard.stop()


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
