"""Indices as sub-tokens."""

import pytest
import torch

from open_magvit2.common.construction import build, describe
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.factorization import Factorization
from open_magvit2.generators.masked import MaskedGenerator


@pytest.mark.parametrize("bits", [(6, 12), (9, 9), (18,), (6, 6, 6), (14,), (7, 7), (8, 8), (1, 2, 3)])
@pytest.mark.parametrize("most_significant_first", [False, True])
def test_it_is_a_bijection(bits, most_significant_first):
    factorization = Factorization(bits, most_significant_first)
    indices = torch.arange(min(factorization.codebook_size, 2**18))
    sub_tokens = factorization.split(indices)
    assert torch.equal(factorization.join(sub_tokens), indices)
    assert len(torch.unique(sub_tokens, dim=0)) == len(indices)
    assert all(int(sub_tokens[:, g].max()) < size for g, size in enumerate(factorization.sizes))


def test_the_published_order_puts_the_low_bits_first():
    indices = torch.tensor([114654, 14117, 160670, 239008])
    assert Factorization((6, 12)).split(indices).tolist() == [[30, 1791], [37, 220], [30, 2510], [32, 3734]]
    assert Factorization((12, 6), True).split(indices[:1]).tolist() == [[1791, 30]]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([2**18]), r"\[0, 262144\), got \[262144, 262144\]"),
        (torch.tensor([-1]), r"got \[-1, -1\]"),
        (torch.tensor([1.0]), "integer indices, got torch.float32"),
    ],
)
def test_other_indices_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        Factorization((6, 12)).split(indices)


def test_other_groups_are_refused():
    with pytest.raises(ValueError, match=r"bits must be at least 1, got \[6, 0\]"):
        Factorization([6, 0])
    with pytest.raises(ValueError, match="at most 62"):
        Factorization([31, 32])
    with pytest.raises(ValueError, match=r"expected sub-tokens \[..., 2\], got \(3,\)"):
        Factorization((6, 12)).join(torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        (AutoregressiveGenerator, {"num_spatial_blocks": 1, "num_factorized_blocks": 1}),
        (MaskedGenerator, {"num_blocks": 1}),
    ],
)
def test_a_generator_takes_its_bits_from_either_end_and_its_checkpoint_says_which(kind, blocks):
    """The same weights draw the same sub-tokens, which are other bits of the index."""
    sizes = {"bits": (2, 3), "grid": (2, 3), "num_classes": 4, "width": 32, "num_heads": 2, "hidden": 48}
    torch.manual_seed(0)
    low_first = kind(**sizes, **blocks).eval()
    high_first = kind(**sizes, **blocks, most_significant_first=True).eval()
    high_first.load_state_dict(low_first.state_dict())
    rebuilt = build(describe(high_first)).eval()
    rebuilt.load_state_dict(low_first.state_dict())
    labels, seeds = torch.tensor([0, 3]), [5, 6]
    low, high, again = (generator.generate(labels, seeds) for generator in (low_first, high_first, rebuilt))
    assert torch.equal(Factorization((2, 3)).split(low), Factorization((2, 3), True).split(high))
    assert not torch.equal(low, high)
    assert torch.equal(high, again)
