"""Exact peaks of allocated memory: what a call holds at its fullest moment beyond what was there before it.

Not the process's resident size, which allocators pad and keep: on CUDA the caching allocator's own statistics, on a
CPU every allocation and release of PyTorch's allocator, as its profiler reports them. Scratch space that libraries
take from elsewhere (oneDNN's convolutions, cuDNN's handles) is in neither.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

_PART = "part: "
ELSEWHERE = "elsewhere"


class Peak(NamedTuple):
    """The fullest moment of a call."""

    num_bytes: int  # allocated by the call and not yet released, beyond what was there before
    by_part: dict[str, int]  # on a CPU: the same bytes by the part (see `part`) that allocated them; they add up
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
        return Peak(peak, {}, peak)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
        excluded = {tensor.untyped_storage().data_ptr() for tensor in resident()} if resident is not None else set()
    roots = profiler.profiler.kineto_results.experimental_event_tree()
    events = [event for root in roots for event in _allocations(root, ELSEWHERE)]
    peak, by_part = _peak(events, excluded)
    return Peak(peak, by_part, _peak(events, set())[0])


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Inside, what is allocated counts under this name in `Peak.by_part`; an inner part wins over an outer one."""
    with record_function(_PART + name):
        yield


@contextlib.contextmanager
def parts(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside, the forward pass of each module is a part of its name: its bytes at the peak are what it has saved."""
    handles = []
    for name, module in modules.items():
        open_parts: list[Any] = []

        def enter(_module: nn.Module, _inputs: Any, name: str = name, stack: list[Any] = open_parts) -> None:
            stack.append(part(name))
            stack[-1].__enter__()

        def leave(_module: nn.Module, _inputs: Any, _output: Any, stack: list[Any] = open_parts) -> None:
            stack.pop().__exit__(None, None, None)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Event(NamedTuple):
    """One allocation, or a release where the size is negative."""

    time: int
    address: int
    size: int
    part: str


def _allocations(event: Any, part_name: str) -> Iterator[_Event]:
    """The allocations below an event of the profiler's tree; walked with a stack, since graphs nest deeply."""
    waiting = [(event, part_name)]
    while waiting:
        event, part_name = waiting.pop()
        fields = event.extra_fields
        if hasattr(fields, "alloc_size") and fields.device.type == "cpu":
            yield _Event(event.start_time_ns, fields.ptr, fields.alloc_size, part_name)
        if event.name.startswith(_PART):
            part_name = event.name.removeprefix(_PART)
        waiting += [(child, part_name) for child in reversed(event.children)]


def _peak(events: list[_Event], resident: set[int]) -> tuple[int, dict[str, int]]:
    """Bytes at the fullest moment, in all and by part: replays the events in time.

    A release of what was allocated before them changes nothing.

    Args:
        events: in any order.
        resident: addresses whose last allocation is left out.
    """
    events = sorted(events, key=lambda event: event.time)
    last = {event.address: i for i, event in enumerate(events) if event.size > 0}
    left_out = {last[address] for address in resident if address in last}
    live: dict[int, _Event] = {}
    total, peak = 0, 0
    by_part: Counter[str] = Counter()
    at_peak: dict[str, int] = {}
    for i, event in enumerate(events):
        if i in left_out:
            continue
        if event.size > 0:
            live[event.address] = event
            change, name = event.size, event.part
        elif event.address in live:
            allocated = live.pop(event.address)
            change, name = -allocated.size, allocated.part
        else:
            continue
        total += change
        by_part[name] += change
        if total > peak:
            peak, at_peak = total, dict(by_part)
    return peak, {name: size for name, size in at_peak.items() if size}
