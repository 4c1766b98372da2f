"""Dropout against its definition."""

import pytest
import torch

from open_magvit2.layers.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_are_zeroed_or_scaled(dtype):
    torch.manual_seed(0)
    features = torch.ones(100_000, dtype=dtype, requires_grad=True)
    output = Dropout(0.1)(features)
    assert output.dtype == dtype
    share = (output == 0).double().mean().item()
    assert abs(share - 0.1) < 5 * (0.1 * 0.9 / 1e5) ** 0.5  # five standard deviations
    kept = output[output != 0]
    assert torch.allclose(kept.double(), torch.tensor(1 / 0.9, dtype=torch.float64), rtol=0.01)
    output.sum().backward()
    assert torch.equal(features.grad, output.detach())


def test_a_byte_a_number_is_kept():
    kept: list[torch.Tensor] = []
    features = torch.ones(64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        Dropout(0.5)(features)
    assert sum(tensor.nbytes for tensor in kept) == 64


def test_nothing_changes_without_training_or_at_zero_and_all_goes_at_one():
    features = torch.ones(8)
    assert Dropout(0.5).eval()(features) is features
    assert torch.equal(Dropout(0.0)(features), features)
    assert not Dropout(1.0)(features).any()
