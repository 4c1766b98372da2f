"""Sums that live on the device of the first update and merge over ranks once: the state of a metric."""

import torch
import torch.distributed as dist
from torch import Tensor

from open_magvit2.common.distributed import all_reduce_sum, is_distributed


def sum_over_ranks(state: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The sum of one accumulator over all ranks; a collective call under DDP, a copy on a single process.

    Args:
        state: this rank's sum, or None where the rank has seen no data: with more ranks than images a rank may
            be empty, and it must still take part in the collective.
        shape: the accumulator's shape, the same on all ranks.
        dtype: the accumulator's dtype, the same on all ranks.

    Returns:
        A new tensor; the state itself is left alone, so that accumulation may go on.
    """
    if state is None:
        state = torch.zeros(shape, dtype=dtype, device=collective_device())
    if tuple(state.shape) != tuple(shape) or state.dtype != dtype:
        raise ValueError(f"expected a state {shape} of {dtype}, got {tuple(state.shape)} of {state.dtype}")
    return all_reduce_sum(state.clone())


def collective_device() -> torch.device:
    """The device of tensors in a collective: NCCL has no CPU tensors."""
    if is_distributed() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
