"""The clocks of the benchmark: what they count, and that nothing is timed cold or in blocks."""

import itertools
import mmap
import time

import pytest
import torch

from benchmarks.timing import _turns, interleaved

CPU = torch.device("cpu")


def compute(seconds: float) -> None:
    """Keep this process busy for so many CPU seconds."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(100))


def test_counts_computing_and_not_waiting():
    found = interleaved({"waits": lambda: time.sleep(0.05), "computes": lambda: compute(0.03)}, CPU, repeats=3)
    assert found["waits"].median < 0.03 <= found["computes"].median
    assert found["computes"].repeats == 3
    assert found["computes"].fastest <= found["computes"].median <= found["computes"].slowest


def test_warms_up_first_and_then_takes_turns():
    calls = []
    functions = {name: lambda name=name: (calls.append(name), compute(0.03)) for name in "abc"}
    interleaved(functions, CPU, repeats=4, warm_up=2)
    assert calls[:9] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3  # warm-up, and one call to learn how long one takes
    rounds = [calls[9 + 3 * i : 12 + 3 * i] for i in range(4)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]])
def test_all_begin_a_round_equally_often_and_none_has_a_fixed_place(names):
    turns = list(_turns(names, repeats=2 * len(names)))
    rounds = [turns[i : i + len(names)] for i in range(0, len(turns), len(names))]
    assert all(sorted(turn) == names for turn in rounds)
    for place in range(len(names)):
        assert sorted(turn[place] for turn in rounds) == sorted(2 * names)
    followers = {name: {after for before, after in itertools.pairwise(turns) if before == name} for name in names}
    assert all(len(after) > 1 for after in followers.values())


def test_the_kernels_part_is_counted():
    def new_pages() -> None:
        for _ in range(4):
            mmap.mmap(-1, 2**26).write(bytes(2**26))

    found = interleaved({"pages": new_pages, "computes": lambda: sum(range(2_000_000))}, CPU, repeats=3)
    shares = {name: timing.system / timing.median for name, timing in found.items()}
    assert shares["computes"] < shares["pages"]


def test_short_calls_are_repeated_within_a_measurement():
    calls = []
    found = interleaved({"short": lambda: (calls.append(0), compute(0.001))}, CPU, repeats=2)
    assert len(calls) > 2 * 10
    assert found["short"].median >= 0.001


def test_refuses_to_measure_nothing_or_cold():
    with pytest.raises(ValueError, match="warm_up"):
        interleaved({"a": compute}, CPU, warm_up=0)
    with pytest.raises(ValueError, match="functions"):
        interleaved({}, CPU)
