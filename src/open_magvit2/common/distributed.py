"""Rank, world size and sums over ranks; each is a no-op on a single process."""

from typing import Any

import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group of more than one rank is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's rank, 0 on a single process."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of ranks, 1 on a single process."""
    return dist.get_world_size() if is_distributed() else 1


def leave_process_group() -> None:
    """Wait until all ranks are here, then destroy the process group.

    The barrier's handle is kept until the group is gone. Otherwise gloo's thread is the last to let go of it and of the
    tensors of earlier operations, for which it needs Python's lock, while the destructor of the group holds that lock
    and waits for the thread: a deadlock (PyTorch issue 56297), seen once with PyTorch 2.7.1.

    Call it before the program ends: PyTorch's issue 190489 reports that gloo's thread may abort a process whose group
    is still up while Python shuts down. We saw "terminate called without an active exception" twice and could not
    reproduce it.
    """
    barrier = dist.barrier(async_op=True)
    barrier.wait()
    dist.destroy_process_group()
    del barrier


def leave_gloo() -> None:
    """`leave_process_group` where the group is gloo's; all ranks must be here."""
    if is_distributed() and dist.get_backend() == "gloo":
        leave_process_group()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks, in place and returned; without gradient."""
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Mean over ranks, in place and returned; without gradient."""
    return all_reduce_sum(tensor).div_(world_size())


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's tensor on every rank, in place and returned; without gradient."""
    if is_distributed():
        dist.broadcast(tensor, src=0)
    return tensor


def all_gather_object(item: Any) -> list[Any]:
    """The items of all ranks in rank order; small, picklable ones."""
    if not is_distributed():
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items
