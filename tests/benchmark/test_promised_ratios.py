"""Ratios of memory to the plain baseline that docs/performance.md states, at sizes that take seconds.

Memory is counted exactly; the bounds lie 5 % below what was measured at the test's size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from open_magvit2.benchmark import models
from open_magvit2.benchmark.memory import peak_memory
from open_magvit2.benchmark.plain_networks import all_codes, softmax_entropies
from open_magvit2.benchmark.variants import BASELINE, OURS, Steps
from open_magvit2.quantizers.entropy import entropy_penalty
from open_magvit2.training.recomputation import set_recomputation

CPU = torch.device("cpu")
NUM_BITS = 18


def with_gradient(penalty: Callable[..., Any], num_tokens: int, *arguments: Any) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    latent = (torch.randn(num_tokens, NUM_BITS, generator=generator) * 0.02).requires_grad_()

    def run() -> None:
        sample, codebook = penalty(latent, *arguments)
        torch.autograd.grad(sample - codebook, latent)

    return run


def test_the_entropy_penalty_against_the_softmax():
    softmax = with_gradient(softmax_entropies, 256, all_codes(NUM_BITS, CPU, torch.float32))
    ours = with_gradient(entropy_penalty, 256)
    ours()
    assert peak_memory(softmax).num_bytes / peak_memory(ours).num_bytes >= 200  # 210; with 2,048 tokens 370


def test_the_entropy_penaltys_memory_is_linear_in_tokens():
    peaks = [peak_memory(with_gradient(entropy_penalty, number)).num_bytes for number in (512, 1024, 1536)]
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.01)


class Both(NamedTuple):
    """B-128's steps, after one of each: its optimizers have their state."""

    baseline: Steps
    ours: Steps


@pytest.fixture(scope="module")
def both() -> Both:
    steps = Both(*(Steps(variant, models.TINY, "fp32", CPU) for variant in (BASELINE, OURS)))
    for one in steps:
        one.on_batch(1)()
    return steps


def test_memory_of_a_step_by_level_of_recomputation(both):
    # four images of 32 pixels; with two of 128, and the same weights, the ratios are 3.5, 7.5 and 10.3
    baseline = both.baseline.peak(both.baseline.on_batch(4)).beyond_gradients
    ratios = {}
    for level in ("none", "activations", "blocks"):
        set_recomputation(both.ours.training.training.tokenizer, level)
        ratios[level] = baseline / both.ours.peak(both.ours.on_batch(4)).beyond_gradients
    assert ratios["none"] >= 3.03  # 3.20
    assert ratios["activations"] >= 5.97  # 6.29
    assert ratios["blocks"] >= 7.72  # 8.13
