"""Gumbel-softmax quantization against the formulas of its papers, in float64."""

import math

import pytest
import torch

from open_magvit2.quantizers.gumbel import GumbelQuantizer


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return GumbelQuantizer(codebook_size=12, latent_channels=5, temperature=0.7).double()


@pytest.fixture
def latent():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator)


def logits_of(quantizer, latent):
    weight = quantizer.projection.weight[:, :, 0, 0]
    return torch.einsum("vc,bchw->bhwv", weight, latent) + quantizer.projection.bias


def test_outside_training_the_code_of_the_largest_logit(quantizer, latent):
    quantizer.eval()
    expected = logits_of(quantizer, latent).argmax(dim=-1)
    for codes, indices in (quantizer.quantize(latent), quantizer(latent)[:2]):
        assert torch.equal(indices, expected)
        assert torch.allclose(codes, quantizer.codebook[expected].movedim(-1, 1), rtol=0, atol=1e-12)
    assert torch.equal(quantizer.indices_to_codes(expected), quantizer.codebook[expected].movedim(-1, 1))


def test_in_training_the_noisy_choice_and_the_gradient_of_the_mixture(quantizer, latent):
    """Equation 2 of arXiv 1611.01144, with the same noise; the gradient is the soft mixture's."""
    quantizer.train()
    latent.requires_grad_(True)
    direction = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    codes, indices, _ = quantizer(latent)
    (got,) = torch.autograd.grad((codes * direction).sum(), latent)

    torch.manual_seed(3)
    noise = -torch.empty(24, 12, dtype=torch.float64).exponential_().log()
    noisy = (logits_of(quantizer, latent) + noise.view(2, 3, 4, 12)) / 0.7
    mixture = noisy.softmax(dim=-1) @ quantizer.codebook
    (expected,) = torch.autograd.grad((mixture.movedim(-1, 1) * direction).sum(), latent)
    assert torch.equal(indices, noisy.argmax(dim=-1))
    assert not torch.equal(indices, logits_of(quantizer, latent).argmax(dim=-1))  # the noise moved some
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)


def test_the_loss_is_the_divergence_from_the_uniform_distribution(quantizer, latent):
    probabilities = logits_of(quantizer, latent).softmax(dim=-1)
    expected = (probabilities * (probabilities * 12).log()).sum(dim=-1).mean()
    assert quantizer(latent).losses["prior_divergence"].item() == pytest.approx(expected.item(), abs=1e-12)
    with torch.no_grad():
        quantizer.projection.weight.zero_()
        quantizer.projection.bias.zero_()
    assert quantizer(latent).losses["prior_divergence"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codebook_size": 0}, "codebook_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "nan"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GumbelQuantizer(**arguments)


def test_indices_out_of_range_are_refused(quantizer):
    with pytest.raises(ValueError, match=r"\[0, 12\), got \[0, 12\]"):
        quantizer.indices_to_codes(torch.tensor([[0, 12]]))
