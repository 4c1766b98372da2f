"""The entropy section of the benchmark at toy size: memory is counted by hand, and figures go where they belong."""

from types import SimpleNamespace

import pytest
import torch
from known_costs import show_times

from open_magvit2.benchmark import entropy, machine
from open_magvit2.benchmark.settings import Settings

SETTINGS = Settings(torch.device("cpu"), full=False, repeats=1)
NUM_BITS = 12


@pytest.fixture(autouse=True)
def _toy_size(monkeypatch):
    monkeypatch.setattr(entropy, "_SMALL_TOKENS", (64,))
    monkeypatch.setattr(entropy, "_SMALL_BITS", (NUM_BITS,))


def test_the_softmax_holds_five_tensors_and_ours_grows_by_the_token(monkeypatch):
    tokens = (64, 128, 192)
    monkeypatch.setattr(entropy, "_SMALL_TOKENS", tokens)
    rows = entropy.measure(SETTINGS)
    for number, row in zip(tokens, rows, strict=True):
        # logits, the two softmaxes and what their backward passes make, [N, 2^K] in float32; all else is small
        assert row["softmax [MiB]"] * 2**20 == pytest.approx(5 * 4 * number * 2**NUM_BITS, rel=1e-3)
        assert row["memory ratio"] > 10  # 16 and more
    first, second, third = (row["exact [MiB]"] for row in rows)
    assert third - second == pytest.approx(second - first, rel=1e-3)


def test_times_and_peaks_go_where_they_belong(monkeypatch):
    show_times(monkeypatch, entropy, {"ours": 0.5, "plain": 6.0})
    peaks = iter((2 * 2**20, 30 * 2**20))
    monkeypatch.setattr(entropy, "peak_memory", lambda function, device: SimpleNamespace(num_bytes=next(peaks)))
    (row,) = entropy.measure(SETTINGS)
    assert (row["exact [CPU s]"], row["softmax [CPU s]"], row["time ratio"]) == (0.5, 6, 12)
    assert (row["exact [MiB]"], row["softmax [MiB]"], row["memory ratio"]) == (2, 30, 15)


def test_a_softmax_that_does_not_fit_is_marked_and_not_guessed(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 2**20)
    (row,) = entropy.measure(SETTINGS)
    assert row["softmax [CPU s]"].startswith("not measured: would need about")
    assert row["time ratio"] is None
    assert row["exact [CPU s]"] > 0
