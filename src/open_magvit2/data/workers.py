"""Loading processes that obey the training process alone, not the signals of a cluster."""

import multiprocessing
import os
import signal
import threading
from typing import Any

from torch.utils.data import DataLoader

_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}  # by which a cluster ends a job
_SECONDS_TO_LOOK_FOR_PARENT = 2.0


class WorkerLoader(DataLoader):
    """A DataLoader whose workers ignore SIGTERM and SIGUSR1 of anybody but this process, and end when it has ended.

    Workers that are forked are born with the signals blocked: between their fork and `_obey_the_parent_alone` they
    would die of them and take the training down in the middle of a step. Under `forkserver`, the default of Python
    3.14, a server forks the workers, and blocks the signals for none of its processes or for all. So this process forks
    them itself, unless the caller names a context.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        is_free = options.get("multiprocessing_context") is None
        if options.get("num_workers") and is_free and multiprocessing.get_start_method() == "forkserver":
            options["multiprocessing_context"] = "fork"
        super().__init__(*arguments, **options, worker_init_fn=_obey_the_parent_alone)

    def __iter__(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # one that came in between is delivered now


def _obey_the_parent_alone(worker: int) -> None:
    """Let a worker ignore the signals of anybody but the process that loads, and end when that has ended.

    A cluster that ends a job signals all its processes, and the training needs its workers to end the step. A handler
    cannot see who sent a signal, waiting for it can. PyTorch's workers look for their parent too, but one whose parent
    was killed right after the fork takes init for it, and would live for ever.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent, reaper = multiprocessing.parent_process(), os.getppid()

    def wait() -> None:
        while parent.is_alive() and os.getppid() == reaper:
            received = signal.sigtimedwait(_SIGNALS, _SECONDS_TO_LOOK_FOR_PARENT)
            if received is not None and received.si_signo == signal.SIGTERM and received.si_pid == parent.pid:
                break
        os._exit(0)  # as PyTorch's own handler does

    threading.Thread(target=wait, name="signals", daemon=True).start()
