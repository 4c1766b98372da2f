"""What is not finite stays out of weights, moments and running statistics; what is finite passes unchanged."""

import pytest
import torch
from torch import nn

from open_magvit2.training import finite


def test_a_finite_loss_and_its_gradient_are_not_touched():
    weight = torch.randn(50, dtype=torch.float64, requires_grad=True)
    loss = weight.exp().mean()
    guarded = finite.nan_unless_finite(loss)
    assert torch.equal(guarded, loss)
    assert torch.equal(*(torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (guarded, loss)))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_loss_that_is_not_finite_has_no_finite_gradient(value):
    weight = torch.tensor(2.0, requires_grad=True)
    loss = (weight + value).abs()  # its own gradient is 1, -1 or, at NaN, 0
    assert torch.autograd.grad(loss, weight, retain_graph=True)[0].isfinite()
    finite.nan_unless_finite(loss).backward()
    assert weight.grad.isnan()


def adam_states(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value.clone() for state in optimizer.state.values() for value in state.values()]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_skipped_step_leaves_no_trace(bad):
    """Fused Adam with a skipped step in between ends bitwise where Adam without that step ends."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(4, 7, generator=generator)
    results = []
    for poisoned in (True, False):
        weight = torch.ones(7, requires_grad=True)
        optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
        for number, gradient in enumerate(gradients):
            weight.grad = gradient.clone()
            if number in (0, 2):  # the first step, which has no moments yet, is one of them
                if not poisoned:
                    continue
                weight.grad[3] = bad
            finite.skip_unless_finite(optimizer, weight.grad.norm())
            optimizer.step()
        results.append([weight.detach(), *adam_states(optimizer)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert results[0][0].ne(1).all()


def test_running_statistics_keep_their_last_finite_values():
    norm = nn.BatchNorm2d(2)
    with finite.finite_buffers(norm):
        norm(torch.randn(4, 2, 3, 3))
    good = norm.running_mean.clone(), norm.running_var.clone()
    assert good[0].ne(0).all()
    image = torch.randn(4, 2, 3, 3)
    image[0, 1] = float("nan")
    with finite.finite_buffers(norm):
        norm(image)
    for buffer, before in zip((norm.running_mean, norm.running_var), good, strict=True):
        assert buffer.isfinite().all()
        assert buffer[1] == before[1]
        assert buffer[0] != before[0]
