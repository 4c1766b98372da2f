"""Times that can be compared: warmed up, interleaved, medians; CPU seconds of the process, or CUDA events.

Variants are timed in turns, rounds beginning with each of them equally often, so that whatever else the machine does
falls on all alike. On a CPU the clock counts the seconds that all threads of this process computed, not those it waited
for a neighbour.
"""

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

# Shorter calls are repeated within one measurement. On a CPU the clocks' own ticks show below. A GPU waits idly for the
# first kernels of a measurement: in a row, as in a training, the host is ahead of it.
_SHORTEST_SECONDS, _SHORTEST_GPU_SECONDS = 0.02, 0.2
_MOST_CALLS = 1000
_LONG_SECONDS = 1.0  # on a CPU, of a first call: no second one is needed to see that it need not be repeated
_TRIES = 5  # of a call that seems to wait


class Timing(NamedTuple):
    """Seconds of one call."""

    median: float
    system: float  # the kernel's part of it on a CPU, mostly to clear new pages of memory: the median of its own
    fastest: float
    slowest: float
    repeats: int  # measurements behind the median


def clock_name(device: torch.device) -> str:
    """What the seconds of `interleaved` are: for the heads of tables."""
    return "GPU s" if device.type == "cuda" else "CPU s"


def interleaved(
    functions: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int = 5, warm_up: int = 1
) -> dict[str, Timing]:
    """Time functions against each other.

    Args:
        functions: by name; what they return is thrown away.
        device: where they compute: "cuda" is timed by events on the current stream, anything else by CPU seconds.
        repeats: measurements of each.
        warm_up: calls of each before anything is timed.

    Raises:
        ValueError: if there is nothing to measure.
    """
    if not functions or repeats < 1 or warm_up < 1:
        raise ValueError(f"expected functions, repeats and warm_up, got {len(functions)}, {repeats} and {warm_up}")
    calls = {name: _calls_per_measurement(function, device, warm_up) for name, function in functions.items()}
    measured: dict[str, list[_Seconds]] = {name: [] for name in functions}
    for name in _turns(list(functions), repeats):
        measured[name].append(_seconds(functions[name], device, calls[name]))
    timings = {}
    for name, found in measured.items():
        seconds, system = [one.all for one in found], [one.system for one in found]
        timings[name] = Timing(
            statistics.median(seconds), statistics.median(system), min(seconds), max(seconds), len(seconds)
        )
    return timings


def _turns(names: list[str], repeats: int) -> Iterator[str]:
    """Every name once a round. Rounds begin with one name after the other, and go backwards once all have begun one."""
    for number in range(repeats):
        step = -1 if number // len(names) % 2 else 1
        yield from (names[(number + step * place) % len(names)] for place in range(len(names)))


def _calls_per_measurement(function: Callable[[], Any], device: torch.device, warm_up: int) -> int:
    for _ in range(warm_up):
        start = time.process_time()
        function()
        long = time.process_time() - start > _LONG_SECONDS
    if long and device.type != "cuda":  # on a GPU a first call may be long for compilation alone
        return 1
    enough = _SHORTEST_GPU_SECONDS if device.type == "cuda" else _SHORTEST_SECONDS
    seconds = math.inf
    for _ in range(_TRIES):
        start = time.monotonic()  # by the clock on the wall: a call that waits must not be repeated a thousand times
        computed = _seconds(function, device, 1).all
        seconds = min(seconds, max(computed, time.monotonic() - start))
        if computed >= enough or seconds <= 2 * computed or seconds > _LONG_SECONDS:
            break  # else it waited, if only for a neighbour who had its core
    return max(1, min(_MOST_CALLS, round(enough / max(seconds, 1e-6))))


class _Seconds(NamedTuple):
    all: float
    system: float


def _seconds(function: Callable[[], Any], device: torch.device, calls: int) -> _Seconds:
    """Mean seconds of a call over `calls` in a row."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        for _ in range(calls):
            function()
        end.record()
        torch.cuda.synchronize(device)
        return _Seconds(begin.elapsed_time(end) / 1000 / calls, 0.0)
    start, system = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_stime
    for _ in range(calls):
        function()
    seconds = time.process_time() - start
    return _Seconds(seconds / calls, (resource.getrusage(resource.RUSAGE_SELF).ru_stime - system) / calls)
