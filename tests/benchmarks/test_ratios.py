"""Ratios of memory to the plain baseline, counted exactly at sizes that take seconds (docs/performance.md)."""

import pytest
import torch

from benchmarks import entropy, machine, subjects
from benchmarks.baseline_networks import all_codes, softmax_entropies
from benchmarks.memory import peak_memory
from benchmarks.settings import Settings
from benchmarks.training_step import LEVELS, peak_of_step
from open_magvit2.quantizers.entropy import entropy_penalty
from open_magvit2.training.recomputation import set_recomputation

CPU = torch.device("cpu")
NUM_BITS = 18


def peak(penalty, num_tokens: int, *arguments) -> int:
    generator = torch.Generator().manual_seed(0)
    latent = (torch.randn(num_tokens, NUM_BITS, generator=generator) * 0.02).requires_grad_()

    def run() -> None:
        sample, codebook = penalty(latent, *arguments)
        torch.autograd.grad(sample - codebook, latent)

    run()
    return peak_memory(run).num_bytes


@pytest.mark.long
def test_the_entropy_penalty_holds_200_times_less_than_the_softmax():
    softmax = peak(softmax_entropies, 256, all_codes(NUM_BITS, CPU, torch.float32))
    assert softmax / peak(entropy_penalty, 256) >= 200  # 210; with 2,048 tokens 370


def test_the_entropy_penalty_s_memory_is_linear_in_tokens():
    peaks = [peak(entropy_penalty, number) for number in (512, 1024, 1536)]
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.01)


@pytest.mark.long
def test_memory_of_a_step_by_level_of_recomputation():
    """Four images of 32 pixels; with two of 128, and the same weights, the ratios are 3.5, 7.5 and 10.3."""
    ours, plain = subjects.make_ours(subjects.TINY, CPU), subjects.make_plain(subjects.TINY, CPU)
    pixels, images = subjects.loaded(4, 32, CPU)
    for steps, batch in ((ours, pixels), (plain, images)):
        steps.step(batch)  # the optimizers then have their state
    baseline = peak_of_step(plain.optimizers, lambda: plain.step(images), CPU).num_bytes
    ratios = {}
    for level in LEVELS:
        set_recomputation(ours.training.tokenizer, level)
        ratios[level] = baseline / peak_of_step(ours.optimizers, lambda: ours.step(pixels), CPU).num_bytes
    assert ratios["none"] >= 3.03  # 3.20
    assert ratios["activations"] >= 5.97  # 6.29
    assert ratios["blocks"] >= 7.72  # 8.13


def test_a_softmax_that_does_not_fit_is_marked_and_not_guessed(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 2**20)
    (row,) = entropy.measure(Settings(CPU, full=False, repeats=1, tokens=(64,), bits=(12,)))
    assert row["softmax [CPU s]"].startswith("not measured: would need about")
    assert row["time ratio"] is None
    assert row["exact [CPU s]"] > 0
