"""The statistics of the bits of a code against numpy and scikit-learn's definition of mutual information."""

import numpy as np
import pytest
import torch
from small_tokenizers import make_batch

from open_magvit2.evaluation.metrics.codebook_usage import CodebookUsage, bit_statistics


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    total = 0.0
    for a in (0, 1):
        for b in (0, 1):
            joint = ((first == a) & (second == b)).mean()
            if joint > 0:
                total += joint * np.log2(joint / ((first == a).mean() * (second == b).mean()))
    return total


def test_bits_against_numpy():
    indices = np.random.default_rng(0).zipf(1.5, size=4000) % 64
    codes, counts = np.unique(indices, return_counts=True)
    means, information = bit_statistics(torch.from_numpy(codes), torch.from_numpy(counts), 6)
    bits = (indices[:, None] >> np.arange(6)) & 1
    assert means.tolist() == pytest.approx(bits.mean(axis=0).tolist(), abs=1e-12)
    for i in range(6):
        for j in range(6):
            assert information[i, j].item() == pytest.approx(mutual_information(bits[:, i], bits[:, j]), abs=1e-12)


def update(metric, indices):
    metric.update(make_batch(torch.zeros(len(indices)), torch.zeros(len(indices)), indices))


def test_uniform_constant_and_copied_bits():
    metric = CodebookUsage(256)
    update(metric, torch.arange(256).reshape(4, 8, 8))
    figures = metric.compute()
    assert figures["codebook_utilization"] == 1.0
    assert figures["codebook_perplexity"] == pytest.approx(256)
    assert figures["codebook_entropy_bits"] == pytest.approx(8)  # the quantizers' codebook_entropy is in nats
    assert "codebook_entropy" not in figures
    assert figures["codebook_bit_balance"] == 0.5
    assert figures["codebook_bit_entropy"] == 1.0
    assert figures["codebook_bit_mutual_information"] == pytest.approx(0.0, abs=1e-12)

    metric.reset()
    update(metric, torch.zeros(4, 8, 8, dtype=torch.int64))
    figures = metric.compute()
    assert figures["codebook_bit_balance"] == figures["codebook_bit_entropy"] == 0.0
    assert figures["codebook_bit_mutual_information"] == 0.0

    metric.reset()
    update(metric, torch.tensor([[255] * 49]))  # 49 / 49 is not exactly 1 in floating point
    assert metric.compute()["codebook_bit_balance"] == 0.0

    metric.reset()
    update(metric, torch.tensor([[0, 255]]))  # every bit tells the same
    figures = metric.compute()
    assert figures["codebook_bit_mutual_information"] == pytest.approx(1.0)
    assert metric.details["sorted_counts"].tolist() == [1, 1]


def test_a_codebook_that_is_no_power_of_two_has_no_bits():
    metric = CodebookUsage(1000)
    update(metric, torch.tensor([[0, 999]]))
    figures = metric.compute()
    assert figures["codebook_used"] == 2.0
    assert not any(name.startswith("codebook_bit_") for name in figures)
