"""Adversarial training: the GAN losses of both networks, and `Adversary`, which holds all of one discriminator.

The losses are pure functions of discriminator logits [B, ...], each a float32 scalar.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common.arguments import at_least, integer, within
from open_magvit2.common.freezing import frozen
from open_magvit2.common.precision import at_least_float32
from open_magvit2.losses.lecam import LeCAM


def non_saturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """mean softplus(-logit), each image's patch logits averaged first (Goodfellow et al. 2014; MAGVIT-v2)."""
    return F.softplus(-at_least_float32(fake_logits).flatten(1).mean(dim=1)).mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """-mean logit (Lim & Ye, "Geometric GAN", 2017; VQGAN)."""
    return -at_least_float32(fake_logits).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """0.5 (mean relu(1 - real) + mean relu(1 + fake)) (Lim & Ye 2017)."""
    return 0.5 * (
        F.relu(1.0 - at_least_float32(real_logits)).mean() + F.relu(1.0 + at_least_float32(fake_logits)).mean()
    )


def vanilla_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """0.5 (mean softplus(-real) + mean softplus(fake)): binary cross entropy (Goodfellow et al. 2014)."""
    return 0.5 * (F.softplus(-at_least_float32(real_logits)).mean() + F.softplus(at_least_float32(fake_logits)).mean())


GENERATOR_LOSSES = {"non_saturating": non_saturating_generator_loss, "hinge": hinge_generator_loss}
DISCRIMINATOR_LOSSES = {"hinge": hinge_discriminator_loss, "vanilla": vanilla_discriminator_loss}


class Adversary(nn.Module):
    """A discriminator with the losses that train it, and with the term by which a generator trains against it.

    The defaults are the published B recipe (Luo et al., Open-MAGVIT2, arXiv 2409.04410): 0.1 times the non-saturating
    loss for the generator, hinge + 0.005 LeCAM for the discriminator.

    Args:
        discriminator: [B, C, *size] in [-1, 1] -> logits [B, ...], high where the input looks real.
        weight: of the generator's term.
        generator_loss: "non_saturating" (published) or "hinge".
        discriminator_loss: "hinge" (published) or "vanilla".
        start_step: training step from which both networks train against each other.
        adaptive_weight: multiply `weight` (VQGAN has 0.8) by the ratio of gradient norms at the generator's last
            layer (Esser et al., CVPR 2021, eq. 7) instead of keeping it fixed.
        lecam_weight: of the LeCAM regularizer; 0.005 in the B models, 0.05 in L, 0 for none.
        lecam_decay: of LeCAM's moving averages.

    Raises:
        ValueError: for an unknown loss or a negative weight.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        weight: float = 0.1,
        generator_loss: Literal["non_saturating", "hinge"] = "non_saturating",
        discriminator_loss: Literal["hinge", "vanilla"] = "hinge",
        start_step: int = 0,
        adaptive_weight: bool = False,
        lecam_weight: float = 0.005,
        lecam_decay: float = 0.999,
    ) -> None:
        super().__init__()
        at_least(0, weight=weight, lecam_weight=lecam_weight)
        integer(0, start_step=start_step)
        within(0, 1, lecam_decay=lecam_decay)
        for name, choice, known in (
            ("generator_loss", generator_loss, GENERATOR_LOSSES),
            ("discriminator_loss", discriminator_loss, DISCRIMINATOR_LOSSES),
        ):
            if choice not in known:
                raise ValueError(f"{name} must be one of {sorted(known)}, got {choice!r}")
        self.discriminator = discriminator
        self.weight = weight
        self.generator_loss = generator_loss
        self.discriminator_loss = discriminator_loss
        self.start_step = start_step
        self.adaptive_weight = adaptive_weight
        self.lecam_weight = lecam_weight
        self.lecam = LeCAM(lecam_decay) if lecam_weight > 0 else None

    def generator_term(
        self, fake: Tensor, step: int, reconstruction_loss: Tensor, last_layer: nn.Parameter
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's GAN term. The discriminator's weights get no gradient from it.

        Args:
            fake: [B, C, *size], the generator's output.
            step: training steps done so far.
            reconstruction_loss: whose gradient the adaptive weight compares that of the GAN term with.
            last_layer: weight of the generator's last layer, where the gradients are compared.

        Returns:
            (term, terms): a scalar with graph; detached scalars "adversarial" and "adversarial_weight".
        """
        with frozen(self.discriminator):
            logits = self.discriminator(fake)
        loss = GENERATOR_LOSSES[self.generator_loss](logits)
        weight: Tensor | float = self.weight
        if step < self.start_step:
            weight = 0.0  # the term stays in the graph: under DDP every parameter takes part in every step
        elif self.adaptive_weight:
            weight = self.weight * gradient_ratio(reconstruction_loss, loss, last_layer)
        # a number of the configuration stays on the host
        return weight * loss, {"adversarial": loss.detach(), "adversarial_weight": torch.as_tensor(weight)}

    def discriminator_total(
        self, real: Tensor, fake: Tensor, step: int, fraction: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss and its terms. The generator gets no gradient from it.

        Args:
            real, fake: [B, C, *size].
            step: training steps done so far.
            fraction: share of the step's batch that this is (see `LeCAM.update`).

        Returns:
            (total, terms): a scalar with graph; detached unweighted scalars by name, with the mean logits.
        """
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake.detach())
        total = DISCRIMINATOR_LOSSES[self.discriminator_loss](real_logits, fake_logits)
        terms = {self.discriminator_loss: total}
        if self.lecam is not None:
            self.lecam.update(real_logits, fake_logits, fraction)
            terms["lecam"] = self.lecam(real_logits, fake_logits)
            total = total + self.lecam_weight * terms["lecam"]
        total = total * float(step >= self.start_step)
        terms |= {"total": total, "real_logits": real_logits.mean(), "fake_logits": fake_logits.mean()}
        return total, {name: term.detach() for name, term in terms.items()}


def gradient_ratio(reconstruction_loss: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """|gradient of the reconstruction loss| / (|gradient of the GAN term| + 1e-4) at the last layer, at most 1e4.

    VQGAN (Esser et al., CVPR 2021, eq. 7) with the constants of its code; a scalar without graph.
    """
    reconstruction_gradient = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)[0]
    adversarial_gradient = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    ratio = reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)
    return ratio.clamp(0.0, 1e4).detach()
