"""The peak of the allocator against sums done by hand."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from benchmarks.memory import peak_memory

MIB = 2**20
SMALL = 2**14  # scalars and such


def test_counts_what_is_alive_at_once_not_what_was_allocated_in_all():
    def function():
        first = torch.empty(3 * MIB, dtype=torch.uint8)
        del first
        second = torch.empty(4 * MIB, dtype=torch.uint8)
        third = torch.empty(1 * MIB, dtype=torch.uint8)
        del second, third
        torch.empty(2 * MIB, dtype=torch.uint8)

    assert peak_memory(function).num_bytes == 5 * MIB


def test_what_was_there_before_counts_neither_when_kept_nor_when_released():
    kept = [torch.empty(8 * MIB, dtype=torch.uint8)]

    def function():
        kept.clear()
        torch.empty(2 * MIB, dtype=torch.uint8)

    assert peak_memory(function).num_bytes == 2 * MIB


def test_gradients_can_count_as_resident():
    weight = torch.zeros(MIB, requires_grad=True)  # 4 MiB

    def step():
        weight.grad = None
        product = weight * 2  # alive beside the gradient
        product.sum().backward()

    assert peak_memory(step).num_bytes == pytest.approx(8 * MIB, abs=SMALL)
    peak = peak_memory(step, resident=lambda: [weight.grad])
    assert peak.num_bytes == pytest.approx(4 * MIB, abs=SMALL)
    assert peak.with_resident == pytest.approx(8 * MIB, abs=SMALL)
    with pytest.raises(ValueError, match="on a CPU only"):
        peak_memory(step, "cuda", resident=lambda: [weight.grad])


def test_the_graph_of_a_chain_is_counted_and_recomputation_seen():
    # ten sigmoids of 1 MiB save ten outputs; recomputed in two halves, an input and five outputs at a time
    image = torch.randn(MIB // 4, requires_grad=True)

    def sigmoids(x, number):
        for _ in range(number):
            x = torch.sigmoid(x)
        return x

    plain = peak_memory(lambda: sigmoids(image, 10).sum()).num_bytes
    assert plain == pytest.approx(10 * MIB, abs=SMALL)

    def halves():
        x = checkpoint(sigmoids, image, 5, use_reentrant=False)
        return checkpoint(sigmoids, x, 5, use_reentrant=False).sum()

    assert peak_memory(halves).num_bytes == pytest.approx(3 * MIB, abs=SMALL)  # two kept, one passing
