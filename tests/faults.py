"""Faults that tests put into a training by command line: --trainer.callbacks+=faults.Fault, with tests/ on the path.

And a witness of what a training saw.
"""

import atexit
import os
import signal
import sys
import time
from typing import Literal

import pytorch_lightning as pl
from lightning_fabric.utilities import distributed as lightning_distributed
from pytorch_lightning.callbacks import Callback

Kind = Literal["raise", "exit", "kill", "signal", "hang", "hang in validation", "no network"]


class Fault(Callback):
    """At a step, one rank fails; or before the first one, no rank finds a network.

    Args:
        rank: which.
        kind: "raise" an error, "exit" without cleaning up, "kill" itself, get a "signal" to stop, or "hang"; or
            "no network" for gloo groups that are made from now on.
        seconds_to_end: the first rank takes to end, as it may with a GPU.
        at_step: training steps done before.
    """

    def __init__(self, rank: int, kind: Kind, at_step: int = 2, seconds_to_end: float = 0.0) -> None:
        self.rank, self.kind, self.at_step, self.seconds_to_end = rank, kind, at_step, seconds_to_end

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.global_rank == 0:
            atexit.register(time.sleep, self.seconds_to_end)
        # as Lightning does under NCCL, where what it registers may wait for the other ranks
        lightning_distributed._destroy_dist_connection = _say_destroyed
        atexit.register(_say_destroyed)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.kind == "no network":
            os.environ["GLOO_SOCKET_IFNAME"] = "none0"

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx) -> None:
        if trainer.global_rank != self.rank or trainer.global_step != self.at_step:
            return
        if self.kind == "raise":
            raise RuntimeError(f"a fault in rank {self.rank}")
        if self.kind == "exit":
            os._exit(7)
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.kind == "hang":
            time.sleep(3600)

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx) -> None:
        if trainer.global_rank == self.rank and self.kind == "hang in validation":
            time.sleep(3600)


class Witness(Callback):
    """Writes a line for each step, as it begins: step, tab, paths of the batch.

    Args:
        file: the lines are added to it.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx) -> None:
        with open(self.file, "a") as lines:
            lines.write(f"{trainer.global_step}\t{' '.join(batch['path'])}\n")


def _say_destroyed() -> None:
    sys.stderr.write("the process group is destroyed\n")
