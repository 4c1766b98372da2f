"""Clocks and meters for tests that show what they are told: what a section makes of its figures is then known."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest

from open_magvit2.benchmark.timing import Timing
from open_magvit2.benchmark.training_step import StepPeak


def show_times(
    monkeypatch: pytest.MonkeyPatch, section: ModuleType, seconds: Mapping[Any, float] | Callable[[Any], float]
) -> None:
    """Let a section's clock show, for each function that it times, the seconds of its name, or those of its result.

    Every function is called once. A quarter of the seconds are the system's.
    """

    def interleaved(functions: Mapping[Any, Callable[[], Any]], *_: Any, **__: Any) -> dict[Any, Timing]:
        results = {name: function() for name, function in functions.items()}
        shown = {name: seconds(result) if callable(seconds) else seconds[name] for name, result in results.items()}
        return {
            name: Timing(median=one, system=one / 4, fastest=one, slowest=one, repeats=1) for name, one in shown.items()
        }

    monkeypatch.setattr(section, "interleaved", interleaved)


def show_peaks(monkeypatch: pytest.MonkeyPatch, module: ModuleType, mebibytes: Callable[[Any], float]) -> None:
    """Let a module's meter of steps show a peak by a step's result; with gradients it is 1 MiB more."""

    def peak_of_step(_optimizers: Any, step: Callable[[], Any], _device: Any) -> StepPeak:
        beyond = round(mebibytes(step()) * 2**20)
        return StepPeak(beyond + 2**20, beyond, {})

    monkeypatch.setattr(module, "peak_of_step", peak_of_step)
