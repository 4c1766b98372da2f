"""The entropy section of the benchmark really measures, at toy size."""

import torch

from open_magvit2.benchmark import entropy, machine
from open_magvit2.benchmark.settings import Settings

SETTINGS = Settings(torch.device("cpu"), full=False, repeats=1)


def test_ratios_are_those_of_its_own_columns(monkeypatch):
    monkeypatch.setattr(entropy, "_SMALL_TOKENS", (64,))
    monkeypatch.setattr(entropy, "_SMALL_BITS", (12,))
    (row,) = entropy.measure(SETTINGS)
    assert row["time ratio"] == row["softmax [CPU s]"] / row["exact [CPU s]"]
    assert row["memory ratio"] == row["softmax [MiB]"] / row["exact [MiB]"]
    assert row["memory ratio"] > 3
    # logits, the two softmaxes and what their backward passes make: several [64, 2^12] in float32, of 1 MiB each
    assert 3 < row["softmax [MiB]"] < 8


def test_a_softmax_that_does_not_fit_is_marked_and_not_guessed(monkeypatch):
    monkeypatch.setattr(entropy, "_SMALL_TOKENS", (64,))
    monkeypatch.setattr(entropy, "_SMALL_BITS", (12,))
    monkeypatch.setattr(machine, "free_memory", lambda device: 2**20)
    (row,) = entropy.measure(SETTINGS)
    assert row["softmax [CPU s]"].startswith("not measured: would need about")
    assert row["time ratio"] is None
    assert row["exact [CPU s]"] > 0
