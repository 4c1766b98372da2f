"""The factorised entropy penalty against the softmax over all 2^K codes in float64."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from open_magvit2.quantizers import entropy
from open_magvit2.quantizers.entropy import (
    bernoulli_entropy,
    codebook_entropy_bound,
    entropy_penalty,
    sample_entropy,
)

TEMPERATURE = 0.01
SCALES = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 30.0]


def brute_force(latent: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Both entropies from the [N, 2^K] softmax of logits 2 <z, c> / T, by their definitions."""
    num_bits = latent.shape[1]
    codes = ((torch.arange(2**num_bits)[:, None] >> torch.arange(num_bits)) & 1).to(latent.dtype) * 2 - 1
    log_p = torch.log_softmax(2 * latent @ codes.T / TEMPERATURE, dim=1)
    average = log_p.exp().mean(dim=0)
    sample = -(log_p.exp() * log_p).sum(dim=1).mean()
    return sample, -(average * (average + eps).clamp_min(1e-300).log()).sum()


def gradients(function, latent: torch.Tensor) -> list[torch.Tensor]:
    """Values and gradients of both entropies at a latent: [S, E, dS, dE]."""
    leaf = latent.clone().requires_grad_()
    values = function(leaf)
    grads = [torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in values]
    return [*(value.detach() for value in values), *grads]


def latents(num_tokens: int, num_bits: int, scale: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_bits * 100 + num_tokens)
    return torch.randn(num_tokens, num_bits, generator=generator, dtype=torch.float64).mul(scale).to(dtype)


def assert_close(got: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    # Saturated tokens have gradients of 1e-30 that only rounding decides: they count as zero.
    error = (got.double() - expected).norm()
    assert error <= relative * expected.norm() + 1e-12, f"relative error {error / expected.norm():.1e}"


@pytest.mark.parametrize("eps", [1e-5, 0.0])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("num_bits", [1, 2, 3, 5, 8, 9, 12, 13, 14])
def test_equals_brute_force_in_float64(num_bits, scale, eps):
    latent = latents(48, num_bits, scale, torch.float64)
    got = gradients(lambda z: entropy_penalty(z, TEMPERATURE, eps), latent)
    expected = gradients(lambda z: brute_force(z, eps), latent)
    for g, e, tolerance in zip(got, expected, [1e-11, 1e-11, 1e-9, 1e-9], strict=True):
        assert_close(g, e, tolerance)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("num_bits", "num_tokens"), [(2, 32), (2, 512), (7, 512), (13, 32), (13, 512), (14, 256), (15, 32), (16, 32)]
)
def test_float32_gradient_is_within_1e_5_of_float64(num_bits, num_tokens, scale):
    latent = latents(num_tokens, num_bits, scale, torch.float32)
    got = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent)
    expected = gradients(lambda z: brute_force(z, 1e-5), latent.double())
    assert got[2].dtype == got[3].dtype == torch.float32
    for g, e in zip(got, expected, strict=True):
        assert_close(g, e, 1e-5)


def test_k18_in_float32_agrees_with_float64():
    latent = latents(512, 18, 0.02, torch.float32)
    got = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent)
    expected = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent.double())
    for g, e in zip(got, expected, strict=True):
        assert_close(g, e, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_saturated_latents_stay_finite(dtype, eps):
    latent = torch.tensor([[1e4, -1e4, 30.0], [-1e4, 1e4, 0.0], [1e-4, -1e-4, 1e4]], dtype=dtype)
    for value in gradients(lambda z: entropy_penalty(z, TEMPERATURE, eps), latent):
        assert torch.isfinite(value).all()


def test_closed_forms():
    zeros = torch.zeros(5, 6, dtype=torch.float64)
    sample, codebook = entropy_penalty(zeros, eps=0.0)
    assert sample.item() == pytest.approx(6 * 0.693147180559945, rel=1e-12)  # every bit is a fair coin
    assert codebook.item() == pytest.approx(6 * 0.693147180559945, rel=1e-12)
    both = torch.tensor([[1.0] * 6, [-1.0] * 6], dtype=torch.float64)  # two codes, each certain
    sample, codebook = entropy_penalty(both, eps=0.0)
    assert sample.item() == pytest.approx(0.0, abs=1e-12)
    assert codebook.item() == pytest.approx(0.693147180559945, rel=1e-12)


def test_published_eps_caps_the_entropy_of_2_18_codes():
    _, codebook = entropy_penalty(torch.zeros(4, 18))
    assert codebook.item() == pytest.approx(11.19, abs=0.005)


def test_bernoulli_entropy_equals_its_definition():
    logits = torch.linspace(-30, 30, 101, dtype=torch.float64)
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    expected = -(log_p.exp() * log_p + log_q.exp() * log_q)
    assert torch.allclose(bernoulli_entropy(logits), expected, rtol=1e-12, atol=0.0)


def test_sample_entropy_alone_has_the_same_value_and_gradient():
    latent = latents(16, 9, 0.01, torch.float64)
    got = gradients(lambda z: (sample_entropy(z, TEMPERATURE),), latent)
    expected = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent)
    assert_close(got[0], expected[0], 1e-12)
    assert_close(got[1], expected[2], 1e-10)


@pytest.mark.parametrize(("num_bits", "num_tokens"), [(12, 5000), (13, 3), (21, 40)])
def test_chunks_do_not_change_the_result(monkeypatch, num_bits, num_tokens):
    latent = latents(num_tokens, num_bits, 0.02, torch.float64)
    whole = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent)
    monkeypatch.setattr("open_magvit2.quantizers.entropy._CHUNK_ELEMENTS", 2**11)
    for got, expected in zip(gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent), whole, strict=True):
        assert_close(got, expected, 1e-11)


def test_autocast_and_matmul_precision_do_not_reach_it(monkeypatch):
    latent = latents(64, 16, 0.02, torch.float32)
    expected = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent)
    inside, compute = [], entropy._codebook_entropy

    def recording(*arguments):
        inside.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return compute(*arguments)

    monkeypatch.setattr(entropy, "_codebook_entropy", recording)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert inside == [("highest", False)]
    for g, e in zip(got, expected, strict=True):
        assert torch.equal(g, e)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_get_their_gradient_in_kind(dtype):
    latent = latents(32, 9, 0.02, dtype)
    got = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent)
    expected = gradients(lambda z: entropy_penalty(z, TEMPERATURE), latent.double())
    assert got[0].dtype == torch.float32
    assert got[3].dtype == dtype
    assert_close(got[3], expected[3], 1e-2)


def test_bound_is_an_upper_bound_and_tight_for_independent_groups():
    latent = latents(64, 12, 0.02, torch.float64)
    exact = entropy_penalty(latent, eps=0.0)[1]
    assert codebook_entropy_bound(latent, 6, eps=0.0) > exact
    assert codebook_entropy_bound(latent, 12, eps=0.0) == pytest.approx(exact.item(), rel=1e-12)
    # All pairs of a group's values: the groups are independent by construction.
    low, high = latents(8, 4, 0.02, torch.float64), latents(8, 5, 0.02, torch.float64)
    pairs = torch.cat([low.repeat_interleave(8, 0), high.repeat(8, 1)], dim=1)
    exact = entropy_penalty(pairs, eps=0.0)[1].item()
    assert codebook_entropy_bound(pairs[:, :4], 4, eps=0.0) + codebook_entropy_bound(
        pairs[:, 4:], 5, eps=0.0
    ) == pytest.approx(exact, rel=1e-10)


@pytest.mark.long
def test_24_bits_with_2048_tokens_stay_under_one_gibibyte():
    # A process of its own: the peak is that of the whole process, less what PyTorch takes to start. The peak of
    # `resource.getrusage` would begin with that of the process that started this one.
    script = """
import torch
from pathlib import Path
from open_magvit2.quantizers.entropy import entropy_penalty
status = Path("/proc/self/status")
peak = lambda: int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**20
latent = torch.randn(2048, 24).mul_(0.02).requires_grad_()
entropy_penalty(latent[:8, :10])[1].backward()
before = peak()
sum(entropy_penalty(latent)).backward()
print(peak() - before, bool(torch.isfinite(latent.grad).all()))
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert output[1] == "True"
    assert 0.1 < float(output[0]) < 1.0  # a matrix of 2^24 float32 is 0.06 GiB


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.zeros(3), "expected a float latent"),
        (torch.zeros(0, 4), "expected a float latent"),
        (torch.zeros(2, 4, dtype=torch.int64), "expected a float latent"),
        (torch.zeros(2, 29), "got K = 29"),
    ],
)
def test_bad_latents_are_refused(latent, message):
    with pytest.raises(ValueError, match=message):
        entropy_penalty(latent)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        entropy_penalty(torch.zeros(2, 4), temperature=0.0)
    with pytest.raises(ValueError, match="group_bits must be"):
        codebook_entropy_bound(torch.zeros(2, 4), group_bits=0)
