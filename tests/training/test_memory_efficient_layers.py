"""Layers with a backward pass of their own, against autograd's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from open_magvit2.layers.transformer import SwiGLU, TransformerBlock
from open_magvit2.training.memory_efficient_layers import normalized_linears, swiglu_down
from open_magvit2.training.transformer_recomputation import set_transformer_recomputation


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return values.to(dtype).requires_grad_()


def normalized_layers(dtype: torch.dtype = torch.float64) -> tuple[nn.RMSNorm, nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    norm = nn.RMSNorm(6, eps=1e-2)  # large enough to show
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return tuple(part.to(dtype) for part in (norm, nn.Linear(6, 5, bias=False), nn.Linear(6, 4, bias=False)))


def gradients(outputs, parts, features) -> list[torch.Tensor]:
    """Of a function of all outputs that weighs every number differently."""
    total = sum((output.float() if output.dtype.itemsize < 4 else output).sin().sum() for output in outputs)
    return torch.autograd.grad(total, [features, *(parameter for part in parts for parameter in part.parameters())])


@pytest.mark.parametrize("number", [1, 2])
def test_linear_layers_of_a_norm(number):
    norm, *linears = normalized_layers()
    features, used = draw(2, 3, 6, scale=0.1), linears[:number]
    got = normalized_linears(features, norm, *used)
    expected = [linear(norm(features)) for linear in used]
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(mine, theirs)
    pairs = zip(gradients(got, (norm, *used), features), gradients(expected, (norm, *used), features), strict=True)
    for mine, theirs in pairs:
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-13)


def test_the_end_of_swiglu():
    gate, up = draw(2, 3, 6), draw(2, 3, 6, seed=1)
    down = nn.Linear(6, 4, bias=False).double()
    got, expected = swiglu_down(gate, up, down), down(F.silu(gate) * up)
    assert torch.equal(got, expected)
    inputs = [gate, up, down.weight]
    pairs = zip(*(torch.autograd.grad(output.sin().sum(), inputs) for output in (got, expected)), strict=True)
    for mine, theirs in pairs:
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_works_as_on_layers_of_pytorch(autocast):
    norm, *linears = normalized_layers(torch.float32)
    down, features = nn.Linear(5, 6, bias=False), draw(2, 3, 6, dtype=torch.float32)
    parts = norm, linears[0], down
    with torch.autocast("cpu", dtype=autocast):
        (inner,) = normalized_linears(features, norm, linears[0])
        got = swiglu_down(inner, inner, down)
        plain = linears[0](norm(features))
        expected = down(F.silu(plain) * plain)
    assert got.dtype == expected.dtype == autocast
    assert torch.equal(got, expected)
    pairs = zip(gradients([got], parts, features), gradients([expected], parts, features), strict=True)
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype == torch.float32
        assert (mine - theirs).norm() < 0.05 * theirs.norm()


def test_a_backward_pass_inside_autocast_keeps_large_gradients_finite():
    """A sum over the width does not fit float16 long before the gradients themselves do not."""
    norm, linear, features = nn.RMSNorm(64, eps=1e-5), nn.Linear(64, 64, bias=False), draw(3, 64, dtype=torch.float32)
    nn.init.eye_(linear.weight)
    found = []
    for inside in (False, True):
        with torch.autocast("cpu", dtype=torch.float16):
            (output,) = normalized_linears(features, norm, linear)
        with torch.autocast("cpu", dtype=torch.float16, enabled=inside):
            output.backward(20_000 * output.detach().sign())
        found.append(features.grad)
        features.grad = None
    assert found[0].abs().max() > 1000
    assert torch.allclose(*found, rtol=1e-6)


def test_what_is_kept_for_the_backward_pass():
    norm, *linears = normalized_layers()
    features, gate = draw(8, 6), draw(8, 6, seed=1)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        normalized_linears(features, norm, *linears)
        swiglu_down(gate, gate, linears[0])
    weights = {parameter.data_ptr() for part in (norm, *linears) for parameter in part.parameters()}
    assert {tensor.data_ptr() for tensor in kept} - weights == {features.data_ptr(), gate.data_ptr()}


def test_gradients_may_be_asked_for_twice():
    """As the adaptive weight of a GAN does."""
    norm, *linears = normalized_layers()
    features = draw(4, 6)
    (inner,) = normalized_linears(features, norm, linears[0])
    total = swiglu_down(inner, inner, nn.Linear(5, 2, bias=False).double()).sum()
    first = torch.autograd.grad(total, features, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(total, features))


class Doubled(nn.Linear):
    def forward(self, features):
        return 2 * super().forward(features)


class DoubledSwiGLU(SwiGLU):
    def forward(self, features):
        return 2 * super().forward(features)


@pytest.mark.parametrize("changed", ["qkv", "down", "feed_forward", "feed_forward_norm", "hook"])
def test_a_block_with_parts_of_a_user_computes_what_they_do(changed):
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 16).double()
    if changed == "qkv":
        block.attention.qkv = Doubled(8, 24, bias=False).double()
    elif changed == "down":
        block.feed_forward.down = nn.Linear(16, 8).double()  # with a bias
    elif changed == "feed_forward":
        block.feed_forward = DoubledSwiGLU(8, 16).double()
    elif changed == "hook":
        block.feed_forward.gate.register_forward_hook(lambda layer, inputs, output: 2 * output)
    else:
        block.feed_forward_norm = nn.LayerNorm(8).double()
    features = draw(2, 3, 8)
    expected = block(features)
    set_transformer_recomputation(block, "activations")
    assert torch.equal(block(features), expected)
