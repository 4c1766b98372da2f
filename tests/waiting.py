"""Refuses operations that make the host wait for a CUDA device, where the tests run on a CPU.

What no operation shows on a CPU (`.tolist()`, `.cpu()`, `.numpy()`) fails on the tensors of test_one_device.py.
"""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

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
