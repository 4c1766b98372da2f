"""LFQ: signs, bit orders, round trips, the straight-through gradient, its losses."""

import pytest
import torch

from open_magvit2.common.construction import build, describe
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


@pytest.mark.parametrize("bit_order", ["least_significant_first", "most_significant_first"])
@pytest.mark.parametrize("num_bits", [1, 2, 9, 18, 31, 32, 36])
def test_indices_and_codes_round_trip(num_bits, bit_order):
    group_bits = 12 if num_bits > 28 else None
    quantizer = LookupFreeQuantizer(num_bits, bit_order=bit_order, entropy_group_bits=group_bits)
    indices = torch.randint(0, quantizer.codebook_size, (3, 4, 5))
    indices.flatten()[:2] = torch.tensor([0, quantizer.codebook_size - 1])
    codes = quantizer.indices_to_codes(indices)
    assert codes.shape == (3, num_bits, 4, 5)
    assert set(codes.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(quantizer.codes_to_indices(codes), indices)


def test_all_codes_of_a_small_codebook_are_different_and_enumerated():
    quantizer = LookupFreeQuantizer(6)
    codes = quantizer.indices_to_codes(torch.arange(64).view(1, 8, 8))
    assert len(codes.permute(0, 2, 3, 1).reshape(64, 6).unique(dim=0)) == 64


def test_bit_orders_by_hand():
    latent = torch.tensor([0.3, -0.2, -0.1]).view(1, 3, 1, 1)  # + - -
    assert LookupFreeQuantizer(3).quantize(latent)[1].item() == 1
    assert LookupFreeQuantizer(3, bit_order="most_significant_first").quantize(latent)[1].item() == 4


def test_zero_is_quantized_to_minus_one():
    codes, indices = LookupFreeQuantizer(2).quantize(torch.zeros(1, 2, 1, 1))
    assert codes.flatten().tolist() == [-1.0, -1.0]
    assert indices.item() == 0


def test_gradient_passes_straight_through():
    latent = torch.randn(2, 5, 3, 3, requires_grad=True)
    codes = LookupFreeQuantizer(5)(latent).codes
    weights = torch.randn_like(codes)
    (codes * weights).sum().backward()
    assert torch.equal(latent.grad, weights)
    assert torch.allclose(codes.detach().abs(), torch.ones(()))


def test_losses_are_named_and_unweighted():
    latent = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    output = LookupFreeQuantizer(5)(latent)
    assert set(output.losses) == {"sample_entropy", "codebook_entropy", "commitment"}
    signs = torch.where(latent > 0, 1.0, -1.0)
    assert output.losses["commitment"].item() == pytest.approx((latent - signs).square().mean().item(), rel=1e-12)
    assert output.indices.dtype == torch.int64


def test_entropies_do_not_depend_on_how_tokens_are_laid_out():
    quantizer = LookupFreeQuantizer(7)
    latent = torch.randn(2, 7, 3, 4, dtype=torch.float64) * 0.01
    tokens = latent.permute(0, 2, 3, 1).reshape(24, 7, 1, 1)
    for name, value in quantizer.entropies(latent).items():
        assert value.item() == pytest.approx(quantizer.entropies(tokens)[name].item(), rel=1e-12)


def test_grouped_entropy_carries_another_name():
    losses = LookupFreeQuantizer(36, entropy_group_bits=12).entropies(torch.randn(1, 36, 4, 4))
    assert set(losses) == {"sample_entropy", "codebook_entropy_bound"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_bits": 0}, "num_bits must be in .1, 36."),
        ({"num_bits": 37}, "num_bits must be in .1, 36."),
        ({"num_bits": 30}, "entropy_group_bits"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"entropy_group_bits": 40}, "entropy_group_bits must be in .1, 28., got 40"),
        ({"entropy_eps": -1.0}, "entropy_eps must be at least 0, got -1.0"),
        ({"bit_order": "big"}, "bit_order must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LookupFreeQuantizer(**arguments)


def test_bad_tensors_are_refused():
    quantizer = LookupFreeQuantizer(4)
    with pytest.raises(ValueError, match=r"expected a latent \[B, 4"):
        quantizer.quantize(torch.zeros(1, 5, 2, 2))
    with pytest.raises(ValueError, match=r"\[0, 16\), got \[0, 16\]"):
        quantizer.indices_to_codes(torch.tensor([[[0, 16]]]))
    with pytest.raises(ValueError, match="integer indices"):
        quantizer.indices_to_codes(torch.zeros(1, 2, 2))


def test_a_description_rebuilds_it():
    quantizer = LookupFreeQuantizer(11, bit_order="most_significant_first", temperature=0.1)
    assert describe(build(describe(quantizer))) == describe(quantizer)
    assert describe(quantizer)["init_args"]["temperature"] == 0.1
