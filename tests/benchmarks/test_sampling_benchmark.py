"""The plain loop computes what ours does, and the section of the benchmark runs."""

import pytest
import torch

from benchmarks import sampling
from benchmarks.baseline_sampling import PlainSampler
from benchmarks.settings import Settings
from open_magvit2.generators.drawing import SubTokenSampling
from open_magvit2.generators.sampling import Sampling, sample

TOY = sampling.Case(width=64, num_spatial_blocks=2, num_factorized_blocks=1, side=3, batch=2)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_plain_loop_makes_the_same_greedy_tokens(guidance):
    generator, labels = TOY.generator(torch.device("cpu")).double(), torch.tensor([3, 999])
    settings = Sampling((SubTokenSampling(guidance=guidance),), greedy=True)
    expected = sample(generator, labels, [0, 1], settings).flatten(1)
    assert torch.equal(PlainSampler(generator, guidance, greedy=True).sample(labels, 9), expected)


def test_the_section_runs(monkeypatch):
    monkeypatch.setattr(sampling, "_QUICK", (TOY, sampling.replace(TOY, precision="bfloat16", num_tokens=4)))
    rows = list(sampling.measure(Settings(torch.device("cpu"), full=False, repeats=1)))
    assert [(row["grid"], row["positions"], row["precision"]) for row in rows] == [
        ("3x3", 9, "float32"),
        ("3x3", 4, "bfloat16"),
    ]
    assert all(row["time ratio"] > 0 and row["ours [MiB]"] > 0 for row in rows)
