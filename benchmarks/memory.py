"""Exact peaks of allocated memory: what a call holds at its fullest moment beyond what was there before it.

Not the process's resident size, which allocators pad and keep: on CUDA the caching allocator's own statistics, on a
CPU every allocation and release of PyTorch's allocator, as its profiler reports them. Scratch space that libraries
take from elsewhere (oneDNN's convolutions, cuDNN's handles) is in neither.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


class Peak(NamedTuple):
    """The fullest moment of a call."""

    num_bytes: int  # allocated by the call and not yet released, beyond what was there before
    with_resident: int  # the fullest moment if what counts as resident is counted as well


def peak_memory(
    function: Callable[[], Any],
    device: str | torch.device = "cpu",
    resident: Callable[[], Iterable[Tensor]] | None = None,
) -> Peak:
    """Run a function once and say how much memory it held at most above what was there before.

    Memory from before the call that it releases is not subtracted, nor does it hide anything.

    Args:
        function: what to measure; run it once before, so that what it keeps for ever (an optimizer's state, caches)
            counts as resident.
        device: where it allocates.
        resident: called after the function: tensors that it allocates anew each time but that count as resident all
            the same, as gradients do (DDP keeps them in its buckets between steps). On a CPU only.

    Raises:
        ValueError: for `resident` on another device, whose statistics cannot tell tensors apart.
    """
    if resident is not None and torch.device(device).type != "cpu":
        raise ValueError(f"resident tensors can be left out on a CPU only, got device {device}: measure with them")
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        return Peak(peak, peak)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
        excluded = {tensor.untyped_storage().data_ptr() for tensor in resident()} if resident is not None else set()
    roots = profiler.profiler.kineto_results.experimental_event_tree()
    events = [event for root in roots for event in _allocations(root)]
    return Peak(_peak(events, excluded), _peak(events, set()))


class _Event(NamedTuple):
    """One allocation, or a release where the size is negative."""

    time: int
    address: int
    size: int


def _allocations(root: Any) -> Iterator[_Event]:
    """The allocations below an event of the profiler's tree; walked with a stack, since graphs nest deeply."""
    waiting = [root]
    while waiting:
        event = waiting.pop()
        fields = event.extra_fields
        if hasattr(fields, "alloc_size") and fields.device.type == "cpu":
            yield _Event(event.start_time_ns, fields.ptr, fields.alloc_size)
        waiting += reversed(event.children)


def _peak(events: list[_Event], resident: set[int]) -> int:
    """Bytes at the fullest moment: replays the events in time.

    A release of memory that was allocated before them changes nothing.

    Args:
        events: in any order.
        resident: addresses whose last allocation is left out.
    """
    events = sorted(events, key=lambda event: event.time)
    last = {event.address: i for i, event in enumerate(events) if event.size > 0}
    left_out = {last[address] for address in resident if address in last}
    live: dict[int, int] = {}
    total = peak = 0
    for i, event in enumerate(events):
        if i in left_out:
            continue
        if event.size > 0:
            live[event.address] = event.size
            total += event.size
        else:
            total -= live.pop(event.address, 0)
        peak = max(peak, total)
    return peak
