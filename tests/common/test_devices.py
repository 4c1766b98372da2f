"""Processes that torchrun starts wait for each other as long as one of them may work alone."""

import os
import socket
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from processes import spawn

from open_magvit2.common import devices


def _wait(rank, world, port, folder):
    """The first process works alone for longer than the timeout; the second one waits for it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    devices.TIMEOUT = timedelta(seconds=3)
    (folder / f"here {rank}").touch()  # the group's timeout is for meeting as well, and imports may take longer
    while not (folder / f"here {1 - rank}").exists():
        time.sleep(0.01)
    group = devices.processes("cpu")
    group.__enter__()
    dist.barrier()
    if rank == 0:
        while not (folder / "given up").exists():  # or until `spawn` ends a test that hangs
            time.sleep(0.1)
        return
    with pytest.raises(RuntimeError, match=r"(?i)timed out"):
        dist.all_reduce(torch.zeros(1))
    (folder / "given up").touch()
    os._exit(0)  # gloo's threads abort a process that leaves in order after a timeout


def test_a_rank_waits_for_another_as_long_as_is_said(tmp_path):
    assert devices.TIMEOUT.total_seconds() >= 3600
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    spawn(_wait, 2, port, tmp_path)
    assert (tmp_path / "given up").exists()
