"""The processes of a training end together, and the one that failed first is named.

Lightning starts one process a device from the first one. When one of them ends, the others wait for it in their next
collective operation: gloo notices the lost connection, NCCL waits for its timeout, and an orphan keeps its GPU. Here
the first process names the one that ended and takes the others with it, and each of those ends with the first.
Processes that torchrun or SLURM started are ended by what started them (`srun --kill-on-bad-exit=1`).
"""

import atexit
import logging
import os
import signal
import subprocess
import threading
import time
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from lightning_fabric.utilities import distributed as lightning_distributed
from pytorch_lightning.callbacks import Callback

from open_magvit2.training.preemption import EXIT_CODE, Preempted

logger = logging.getLogger(__name__)

_STARTER_VARIABLE = "OPEN_MAGVIT2_STARTED_BY"  # the first process's id, for those that it starts
_POLL_SECONDS = 0.2

GradientCompression = Literal["none", "bf16"]


class EndTogether(Callback):
    """Ends the processes that this one started when it fails, and names one of them that fails first.

    Args:
        timeout_minutes: longest wait for the other processes in a collective operation; then the training fails. The
            command line gives it to the strategy. Must exceed the time in which a checkpoint is written.
        grace_seconds: for the other processes to say why they failed, before they are killed.
        gradient_compression: dtype in which DDP sends gradients: none, their own; bf16, half of float32's traffic,
            rounded to 8 bits. The command line gives it to the strategy.
    """

    def __init__(
        self,
        timeout_minutes: float = 10.0,
        grace_seconds: float = 10.0,
        gradient_compression: GradientCompression = "none",
    ) -> None:
        if not timeout_minutes > 0:
            raise ValueError(f"processes.timeout_minutes must be positive, got {timeout_minutes}")
        if grace_seconds < 0:
            raise ValueError(f"processes.grace_seconds must not be negative, got {grace_seconds}")
        if gradient_compression not in get_args(GradientCompression):
            raise ValueError(
                f"processes.gradient_compression must be one of {list(get_args(GradientCompression))}, "
                f"got {gradient_compression!r}"
            )
        self.timeout_minutes = timeout_minutes
        self.grace_seconds = grace_seconds
        self.has_stepped = False  # whether a training step was finished
        self.has_named = False  # whether another process was found to have failed
        self._started: dict[int, subprocess.Popen] = {}  # by local rank
        self._ended: set[int] = set()  # those that this process has killed
        self._observed: list[subprocess.Popen] = []  # Lightning's own list
        self._naming = threading.Lock()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._observed = getattr(trainer.strategy.launcher, "procs", [])
        self._started = dict(enumerate(self._observed, start=1))
        for process in self._started.values():
            threading.Thread(target=self._name_when_failed, args=(process,), daemon=True).start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.has_stepped = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Others that end by themselves, or because of whom this process failed, get the time to say why."""
        _leave_process_group_as_it_is()
        if isinstance(exception, Preempted):
            self._observed.clear()  # or Lightning kills this process 0 to 5 s after another has left with EXIT_CODE
        wait = isinstance(exception, SystemExit) or lost_another_process(exception)
        deadline = time.monotonic() + (self.grace_seconds if wait else 0.0)
        for rank, process in self._started.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
                self._name_failed()
            except subprocess.TimeoutExpired:
                self._ended.add(rank)
                process.kill()
                logger.warning("local rank %d (process %d) was still running and is ended", rank, process.pid)

    def _name_when_failed(self, process: subprocess.Popen) -> None:
        """Waits without a pause: Lightning, which kills all without naming the cause, must not see the end first."""
        process.wait()
        self._name_failed()

    def _name_failed(self) -> bool:
        """Whether a process has failed, not just left after a signal; the first call after it says which and how."""
        with self._naming:
            for rank, process in self._started.items():
                failed = process.poll() not in (None, 0, EXIT_CODE) and rank not in self._ended
                if failed and not self.has_named:
                    self.has_named = True
                    ending = _ending(process.returncode)
                    logger.error("local rank %d (process %d) %s; the training ends", rank, process.pid, ending)
        return self.has_named


def lost_another_process(exception: BaseException) -> bool:
    """Whether an error says that another process is gone or late, and nothing about this one."""
    words = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "nccl")
    return isinstance(exception, RuntimeError) and any(word in str(exception).lower() for word in words)


def _leave_process_group_as_it_is() -> None:
    """Under NCCL (not gloo) Lightning destroys all groups at exit, which may wait for ranks that are elsewhere now.

    The name is private to Lightning: another version may not have it.
    """
    atexit.unregister(getattr(lightning_distributed, "_destroy_dist_connection", None))


def end_with_the_first() -> None:
    """Called at the start of every process: one that the first one starts ends when that is gone, even if killed."""
    starter = os.environ.get(_STARTER_VARIABLE)
    if starter is not None and os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=_watch, args=(int(starter),), daemon=True).start()
    else:
        os.environ[_STARTER_VARIABLE] = str(os.getpid())


def _watch(starter: int) -> None:
    while os.getppid() == starter:
        time.sleep(_POLL_SECONDS)
    logger.error("the first process of this training (%d) is gone: process %d ends", starter, os.getpid())
    os._exit(1)  # the main thread may wait in a collective operation, where no exception reaches it


def _ending(returncode: int) -> str:
    if returncode == -signal.SIGKILL:
        return "was killed (SIGKILL: often the machine is out of memory, see dmesg)"
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"failed with exit code {returncode}, see its message"
