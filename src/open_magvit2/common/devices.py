"""The device a script runs on, and its process group under torchrun."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from open_magvit2.common.distributed import leave_process_group

# Rank 0 alone decodes every file for --skip-broken and hashes every file for the fingerprint, and the last shard may be
# slow: NCCL's default of 10 minutes would end that.
TIMEOUT = timedelta(hours=2)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """A device that has been tried.

    Args:
        device: "cpu", "cuda" or "cuda:1"; by default a GPU if there is one, under `torchrun` the local rank's.

    Raises:
        ValueError: if there is no such device, or it cannot be used.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen.type == "cuda" and "LOCAL_RANK" in os.environ:
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        reason, number = str(error).partition("\n")[0], torch.cuda.device_count()
        raise ValueError(
            f"cannot run on {device or 'the GPU'}: {reason}; PyTorch sees {number} GPUs here: take cpu"
            + (f", or cuda:0 to cuda:{number - 1}" if number else "")
        ) from error
    return chosen


@contextlib.contextmanager
def processes(device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Yield the device to run on; under `torchrun` this process is a rank of a process group inside the block.

    Args:
        device: see `choose_device`.
    """
    chosen = choose_device(device)
    if "LOCAL_RANK" not in os.environ:
        yield chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    yield chosen
    # Only after success: after an error the other ranks are elsewhere, and torchrun ends them.
    leave_process_group()
