"""The cross-entropy with a backward pass of its own, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from open_magvit2.losses.cross_entropy import cross_entropy


def draw(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 5, 7, generator=stream, dtype=torch.float64) * 4).to(dtype).requires_grad_()
    weight = torch.rand(2, 5, generator=stream, dtype=torch.float64)
    return logits, torch.randint(0, 7, (2, 5), generator=stream), weight


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_values_and_gradients(smoothing):
    logits, target, weight = draw()
    objective, nats = cross_entropy(logits, target, smoothing)
    options = {"reduction": "none"}
    expected = F.cross_entropy(logits.movedim(-1, 1), target, label_smoothing=smoothing, **options)
    assert torch.allclose(objective, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(nats, F.cross_entropy(logits.movedim(-1, 1), target, **options), rtol=1e-12, atol=1e-12)
    assert not nats.requires_grad
    (got,) = torch.autograd.grad((objective * weight).sum(), logits)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), logits)
    assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-13)


def test_large_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    objective, _ = cross_entropy(logits, torch.tensor([1]))
    (gradient,) = torch.autograd.grad(objective.sum(), logits)
    assert objective.item() == 2e4
    assert gradient.tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, target, weight = draw(dtype)
    objective, nats = cross_entropy(logits, target, 0.1)
    assert objective.dtype == nats.dtype == torch.float32
    exact = logits.detach().double().requires_grad_()
    expected, _ = cross_entropy(exact, target, 0.1)
    assert torch.allclose(objective.double(), expected, rtol=1e-4, atol=1e-4)
    (got,) = torch.autograd.grad((objective * weight).sum(), logits)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), exact)
    assert got.dtype == dtype
    assert torch.allclose(got.double(), wanted, rtol=0.01, atol=1e-3)


def test_logits_are_kept_once():
    logits, target, _ = draw()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        cross_entropy(logits, target)
    assert [tensor.data_ptr() for tensor in kept if tensor.shape == logits.shape] == [logits.data_ptr()]
