"""CodeHistogram against numpy's bincount and closed forms."""

import numpy as np
import pytest
import torch

from open_magvit2.common import codebook
from open_magvit2.common.codebook import CodeHistogram, usage


def reference(indices: np.ndarray, codebook_size: int) -> dict[str, float]:
    counts = np.bincount(indices, minlength=codebook_size)
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    used = (counts > 0).sum()
    return {
        "used": used,
        "utilization": used / codebook_size,
        "entropy_bits": entropy,
        "perplexity": 2**entropy,
    }


@pytest.mark.parametrize("largest_table", [codebook.LARGEST_TABLE, 100])
def test_equals_numpy_in_table_and_in_list(monkeypatch, largest_table):
    monkeypatch.setattr(codebook, "LARGEST_TABLE", largest_table)
    indices = np.random.default_rng(0).zipf(1.3, size=5000) % 1024
    histogram = CodeHistogram(1024)
    for part in np.array_split(indices, 7):
        histogram.update(torch.from_numpy(part).reshape(1, -1))
    assert histogram.compute() == pytest.approx(reference(indices, 1024), rel=1e-12)
    codes, counts = histogram.merged()
    expected = np.bincount(indices, minlength=1024)
    assert (codes.numpy() == expected.nonzero()[0]).all()
    assert (counts.numpy() == expected[expected > 0]).all()


def test_uniform_use_and_a_single_code():
    histogram = CodeHistogram(2**18)
    histogram.update(torch.arange(2**18).reshape(2, 512, 256))
    assert histogram.compute() == pytest.approx(
        {"used": 2**18, "utilization": 1.0, "entropy_bits": 18.0, "perplexity": 2.0**18}, rel=1e-12
    )
    histogram.reset()
    histogram.update(torch.full((3, 4), 7))
    assert histogram.compute() == {
        "used": 1.0,
        "utilization": 2.0**-18,
        "entropy_bits": 0.0,
        "perplexity": 1.0,
    }


def test_a_codebook_too_large_for_a_table():
    histogram = CodeHistogram(2**40)
    histogram.update(torch.tensor([2**39, 5, 5]))
    histogram.update(torch.tensor([5, 2**39]))
    codes, counts = histogram.merged()
    assert codes.tolist() == [5, 2**39]
    assert counts.tolist() == [3, 2]


def test_compute_leaves_the_state_alone_and_empty_is_zero():
    histogram = CodeHistogram(8)
    assert histogram.compute()["used"] == 0
    histogram.update(torch.tensor([1, 2]))
    assert histogram.compute() == histogram.compute()
    histogram.update(torch.tensor([3]))
    assert histogram.compute()["used"] == 3
    assert usage(torch.tensor([0, 4, 4]), 3)["entropy_bits"] == 1.0


@pytest.mark.parametrize("codebook_size", [8, 2**30])
@pytest.mark.parametrize("wrong", [-1, 2**30])
def test_an_index_out_of_range_is_named(codebook_size, wrong):
    histogram = CodeHistogram(codebook_size)
    histogram.update(torch.tensor([1, wrong]))
    with pytest.raises(ValueError, match="outside"):
        histogram.compute()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="integer"):
        CodeHistogram(8).update(torch.zeros(2))
    with pytest.raises(ValueError, match="at least 1"):
        CodeHistogram(0)
