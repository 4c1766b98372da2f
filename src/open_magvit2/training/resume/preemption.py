"""Signals that ask a training to stop (SLURM's preemption, a cloud's notice), and the ranks' agreement on them."""

import logging
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from open_magvit2.common import distributed

logger = logging.getLogger(__name__)

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h, "try again later": stopped by a signal, the state is saved


class SignalWatch:
    """Records a signal, named as "SIGTERM", instead of ending the process, so that the training step can end first."""

    def __init__(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f"no such signals: {', '.join(unknown)}; expected names such as SIGTERM, SIGUSR1")
        self.signals = [signal.Signals[name] for name in names]
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def start(self) -> bool:
        """Replace the handlers, Lightning's as well; False outside the main thread, where that is impossible."""
        if self._previous:
            return True
        try:
            self._previous = {number: signal.signal(number, self._record) for number in self.signals}
        except ValueError:
            logger.warning("training does not run in the main thread: %s will not save it", self.signals)
            return False
        return True

    def stop(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)


class Agreement:
    """The largest of a number over all ranks, over gloo between the hosts: no device has to be waited for.

    All ranks must build it, and ask it equally often. `timeout` is the longest wait for the other ranks.

    Raises:
        ConnectionError: if gloo cannot connect the hosts, although the training's own process group (NCCL) is up.
    """

    def __init__(self, timeout: timedelta | None = None) -> None:
        self._group = None
        if not distributed.is_distributed():
            return
        try:
            self._group = dist.new_group(backend="gloo", timeout=timeout)
        except RuntimeError as error:
            if "wait timeout" in str(error).lower():  # another process is late or gone; the network works
                raise
            reason, interface = str(error).partition("\n")[0], os.environ.get("GLOO_SOCKET_IFNAME", "not set")
            raise ConnectionError(
                f"the processes cannot connect over gloo: {reason}\n"
                f"GLOO_SOCKET_IFNAME is {interface}; without it gloo takes the address of the host's name, often "
                "127.0.1.1 or a container's. Set it on every machine to the network interface that reaches MASTER_ADDR "
                "(the `dev` of `ip route get`), e.g. GLOO_SOCKET_IFNAME=eth0"
            ) from error

    def largest(self, number: int) -> int:
        """A collective call under DDP; the number itself on a single process."""
        if self._group is None:
            return number
        tensor = torch.tensor([number])
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return int(tensor)
