"""Losses against closed forms and independent implementations."""

import copy
import dataclasses
import warnings

import lpips
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from open_magvit2.common import weights
from open_magvit2.losses.adversarial import (
    Adversary,
    gradient_ratio,
    hinge_discriminator_loss,
    hinge_generator_loss,
    non_saturating_generator_loss,
    vanilla_discriminator_loss,
)
from open_magvit2.losses.lecam import LeCAM
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.losses.perceptual import PerceptualLoss, load_lpips

QUANTIZER_LOSSES = {
    "sample_entropy": torch.tensor(2.0, dtype=torch.float64),
    "codebook_entropy": torch.tensor(5.0, dtype=torch.float64),
    "commitment": torch.tensor(0.5, dtype=torch.float64),
}


def test_adversarial_terms_equal_their_definitions():
    real, fake = torch.randn(2, 4, 1, 3, 3, dtype=torch.float64)
    per_image = fake.mean(dim=(1, 2, 3))
    assert torch.allclose(non_saturating_generator_loss(fake), -torch.log(torch.sigmoid(per_image)).mean())
    assert torch.allclose(hinge_generator_loss(fake), -fake.mean())
    hinge = 0.5 * ((1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean())
    assert torch.allclose(hinge_discriminator_loss(real, fake), hinge)
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    entropy = F.binary_cross_entropy_with_logits
    vanilla = 0.5 * (entropy(real, ones) + entropy(fake, zeros))
    assert torch.allclose(vanilla_discriminator_loss(real, fake), vanilla)


def test_losses_are_float32_for_half_precision_logits():
    logits = torch.full((2, 1, 2, 2), 60000.0, dtype=torch.float16)
    for loss in (hinge_discriminator_loss(logits, logits), vanilla_discriminator_loss(logits, logits)):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def test_lecam_follows_its_formula_and_updates_first():
    lecam = LeCAM(decay=0.9).double()
    real, fake = torch.full((2, 1), 3.0).double(), torch.full((2, 1), -1.0).double()
    lecam.update(real, fake)
    assert lecam.ema_real.item() == pytest.approx(0.3)
    assert lecam.ema_fake.item() == pytest.approx(-0.1)
    assert lecam(real, fake).item() == pytest.approx((3.0 + 0.1) ** 2 + (0.3 + 1.0) ** 2, rel=1e-12)


def test_lecam_moves_as_far_in_micro_batches():
    whole, cut = LeCAM(decay=0.999).double(), LeCAM(decay=0.999).double()
    real, fake = torch.randn(2, 8, 1, dtype=torch.float64)
    real, fake = real.mean().expand(8, 1), fake.mean().expand(8, 1)
    whole.update(real, fake)
    for part in range(4):
        cut.update(real[part * 2 : part * 2 + 2], fake[part * 2 : part * 2 + 2], fraction=0.25)
    assert torch.allclose(whole.ema_real, cut.ema_real, rtol=1e-11)
    assert torch.allclose(whole.ema_fake, cut.ema_fake, rtol=1e-11)


def test_lecam_in_16_bits_is_refused():
    with pytest.raises(ValueError, match="LeCAM has moving averages, which would stand still in torch.bfloat16"):
        LeCAM().to(torch.bfloat16).update(torch.ones(1), torch.ones(1))


def test_an_overflow_leaves_lecam_as_it_was():
    lecam = LeCAM(decay=0.9)
    lecam.update(torch.ones(2, 1), torch.ones(2, 1))
    before = lecam.ema_real.clone(), lecam.ema_fake.clone()
    lecam.update(torch.tensor([float("inf"), float("-inf")]), torch.tensor([float("nan"), 1.0]))
    assert torch.allclose(torch.stack([lecam.ema_real, lecam.ema_fake]), torch.stack(before))


def test_lecam_averages_are_in_the_checkpoint():
    assert set(Adversary(nn.Identity()).state_dict()) == {"lecam.ema_real", "lecam.ema_fake"}


def test_generator_objective_is_the_weighted_sum_of_its_terms():
    objective = GeneratorObjective(perceptual_weight=0.0, reconstruction_weight=2.0)
    image, reconstruction = torch.rand(2, 2, 3, 4, 4, dtype=torch.float64)
    distance, total, terms = objective(image, reconstruction, QUANTIZER_LOSSES, step=0)
    error = (image - reconstruction).abs().mean().item()
    assert distance.item() == pytest.approx(2.0 * error, rel=1e-12)
    assert total.item() == pytest.approx(2.0 * error + 0.1 * (2.0 - 5.0) + 0.25 * 0.5, rel=1e-12)
    assert set(terms) == {"reconstruction", *QUANTIZER_LOSSES}


def test_annealed_weights_decrease_linearly():
    image = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    options = {"perceptual_weight": 0.0, "entropy_annealing": 3.0, "entropy_annealing_steps": 2000}
    objectives = GeneratorObjective(**options), GeneratorObjective(**options, annealed_losses=["commitment"])
    for step, factor in [(0, 4.0), (1000, 2.5), (2000, 1.0), (9000, 1.0)]:
        totals = [objective(image, image, QUANTIZER_LOSSES, step=step)[1].item() for objective in objectives]
        assert totals[0] == pytest.approx(factor * 0.1 * (2.0 - 5.0) + 0.25 * 0.5, rel=1e-12)
        assert totals[1] == pytest.approx(0.1 * (2.0 - 5.0) + factor * 0.25 * 0.5, rel=1e-12)
        terms = objectives[0](image, image, QUANTIZER_LOSSES, step=step)[2]
        assert terms["entropy_weight_factor"].item() == pytest.approx(factor)


class Logits(nn.Module):
    """A discriminator whose logits are its input times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.scale


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 1, 2, 3, 3)])
def test_an_adversary_adds_its_term_to_the_generator_and_trains_its_discriminator(shape):
    adversary = Adversary(Logits(), weight=0.3, lecam_weight=0.5, lecam_decay=0.9).double()
    real, layer = torch.rand(shape).double(), nn.Parameter(torch.tensor(0.5).double())
    fake = torch.rand(shape).double() * layer
    term, terms = adversary.generator_term(fake, 0, fake.mean(), layer)
    assert term.item() == pytest.approx(0.3 * non_saturating_generator_loss(fake).item(), rel=1e-12)
    assert set(terms) == {"adversarial", "adversarial_weight"}
    term.backward()
    assert layer.grad != 0
    assert adversary.discriminator.scale.grad is None
    layer.grad = None
    total, terms = adversary.discriminator_total(real, fake, 0)
    assert set(terms) == {"total", "hinge", "lecam", "real_logits", "fake_logits"}
    expected = hinge_discriminator_loss(real, fake) + 0.5 * adversary.lecam(real, fake)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    total.backward()
    assert layer.grad is None
    assert adversary.discriminator.scale.grad != 0


def test_adversarial_terms_start_when_told():
    adversary = Adversary(Logits(), start_step=10)
    fake = torch.ones(1, 1, 2, 2, requires_grad=True)
    for step, counts in [(9, False), (10, True)]:
        term, _ = adversary.generator_term(fake, step, fake.mean(), fake)
        gradient = torch.autograd.grad(term, fake)[0]  # in the graph in both cases
        assert bool(gradient.any()) == counts
        assert bool(adversary.discriminator_total(fake, fake, step)[0] > 0) == counts


def test_quantizer_losses_without_weight_are_refused():
    objective = GeneratorObjective(perceptual_weight=0.0, quantizer_weights={"commitment": 1.0})
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="give every one of its losses a weight"):
        objective(image, image, QUANTIZER_LOSSES, step=0)


def test_bad_settings_are_refused():
    options = {"perceptual_weight": 0.0, "entropy_annealing": 3.0}
    with pytest.raises(ValueError, match="go together"):
        GeneratorObjective(**options)
    with pytest.raises(ValueError, match=r"annealed_losses names \['entropy'\].*sample_entropy"):
        GeneratorObjective(**options, entropy_annealing_steps=10, annealed_losses=["entropy"])
    for name in ("generator_loss", "discriminator_loss"):
        with pytest.raises(ValueError, match=f"{name} must be one of .*hinge.*got 'relativistic'"):
            Adversary(nn.Identity(), **{name: "relativistic"})


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    layer = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))
    inputs = torch.randn(4, 3, dtype=torch.float64)
    output = inputs @ layer
    reconstruction, adversarial = output.abs().mean(), output.square().mean()
    reference = layer.detach().clone().requires_grad_()
    expected = [
        torch.autograd.grad(loss, reference)[0].norm()
        for loss in ((inputs @ reference).abs().mean(), (inputs @ reference).square().mean())
    ]
    weight = gradient_ratio(reconstruction, adversarial, layer)
    assert weight.item() == pytest.approx((expected[0] / (expected[1] + 1e-4)).item(), rel=1e-12)
    assert gradient_ratio(1e9 * reconstruction, adversarial, layer).item() == 1e4
    assert not weight.requires_grad


def test_no_perceptual_weight_needs_no_network(monkeypatch):
    monkeypatch.setattr(
        "open_magvit2.losses.objective.PerceptualLoss", lambda: pytest.fail("a network was loaded for weight 0")
    )
    assert GeneratorObjective(perceptual_weight=0.0).perceptual is None


def package_lpips() -> lpips.LPIPS:
    """The package's own network with the weights that `load_lpips` finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    reference.net.load_state_dict(load_lpips("vgg").net.state_dict())
    return reference


@pytest.mark.long
def test_perceptual_loss_equals_the_lpips_package(random_vgg):
    loss, reference = PerceptualLoss("vgg").double(), package_lpips().double()
    target, reconstruction = torch.rand(2, 2, 3, 64, 64, dtype=torch.float64) * 2 - 1
    reconstruction.requires_grad_()
    expected = reference(reconstruction, target).flatten()
    got = loss(reconstruction, target)
    assert torch.allclose(got, expected, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(value.sum(), reconstruction)[0] for value in (got, expected)]
    assert (gradients[0] - gradients[1]).norm() < 1e-7 * gradients[1].norm()


def test_perceptual_network_stays_out_of_state_gradients_and_copies(random_vgg):
    loss = PerceptualLoss("vgg")
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert copy.deepcopy(loss) is loss
    network = loss.network
    loss.train()
    assert not network.training
    loss.to(torch.float64)
    assert next(network.parameters()).dtype == torch.float64


def test_perceptual_gradient_is_finite_where_features_vanish(random_vgg):
    loss = PerceptualLoss("vgg")
    with torch.no_grad():
        for parameter in loss.network.net.slice1.parameters():
            parameter.zero_()  # all features of the first slice are 0: |x| has no derivative there
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    loss(image, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_missing_vgg_weights_say_which_file_goes_where(monkeypatch, tmp_path):
    monkeypatch.setenv("OPEN_MAGVIT2_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name, known in weights.KNOWN.items():  # an address of this machine where nothing listens
        if known.url:
            monkeypatch.setitem(weights.KNOWN, name, dataclasses.replace(known, url=f"http://127.0.0.1:9/{name}"))
    with pytest.raises(FileNotFoundError, match="vgg16-397923af.pth") as error:
        GeneratorObjective(perceptual_weight=1.0)
    for word in (str(tmp_path), "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"):
        assert word in str(error.value)
