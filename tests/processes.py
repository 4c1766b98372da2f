"""Several gloo processes on this machine, as a test of distributed code needs them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from commands import FORKS

from open_magvit2.common.distributed import leave_process_group

_LONGEST_SECONDS = 1800  # ends what hangs


@contextlib.contextmanager
def process_group(rank: int, world: int, folder: Path) -> Iterator[None]:
    """Inside, this process is one rank of a gloo group that meets through a file in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    yield
    leave_process_group()


def spawn(function: Callable[..., None], world: int, *arguments: object) -> None:
    """Run `function(rank, world, *arguments)` in `world` processes; an error in one of them, or a hang, is raised."""
    options = {"args": (world, *arguments), "nprocs": world, "join": False, "start_method": FORKS.get_start_method()}
    context = torch.multiprocessing.start_processes(function, **options)
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{world} processes did not finish within {_LONGEST_SECONDS} s")
