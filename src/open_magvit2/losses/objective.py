"""The two objectives of tokenizer training: weights times named terms. Every weight of the recipe lives here.

Defaults are the published B recipe (Luo et al., Open-MAGVIT2, arXiv 2409.04410):

    generator      |x - x'| + LPIPS + 0.1 GAN + 0.1 (sample entropy - codebook entropy) + 0.25 commitment
    discriminator  hinge + 0.005 LeCAM
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from open_magvit2.common.precision import at_least_float32
from open_magvit2.losses.adversarial import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES
from open_magvit2.losses.lecam import LeCAM
from open_magvit2.losses.perceptual import PerceptualLoss

QUANTIZER_WEIGHTS = {"sample_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25}


class GeneratorObjective(nn.Module):
    """What encoder, quantizer and decoder minimise.

    Args:
        reconstruction_weight: of the mean absolute error.
        perceptual_weight: of LPIPS (VGG); 0 loads no network at all.
        adversarial_weight: of the GAN term; 0 for training without a discriminator.
        quantizer_weights: weight of every loss that the quantizer returns, by name; a negative weight maximises.
            Names must match the quantizer's exactly.
        adversarial: "non_saturating" (published) or "hinge".
        adversarial_start: training step from which the GAN term counts.
        adaptive_adversarial: multiply adversarial_weight (VQGAN has 0.8) by the ratio of gradient norms at the
            decoder's last layer (Esser et al., CVPR 2021, eq. 7) instead of keeping it fixed.
        entropy_annealing: r; the weights of the entropies start (1 + r) times larger ...
        entropy_annealing_steps: ... and decay linearly to their value over so many steps (r = 3 over 2,000 steps in
            MAGVIT-v2; off in the published B models).

    Raises:
        ValueError: for an unknown adversarial loss, or annealing without steps.
    """

    def __init__(
        self,
        reconstruction_weight: float = 1.0,
        perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.1,
        quantizer_weights: dict[str, float] | None = None,
        adversarial: Literal["non_saturating", "hinge"] = "non_saturating",
        adversarial_start: int = 0,
        adaptive_adversarial: bool = False,
        entropy_annealing: float = 0.0,
        entropy_annealing_steps: int = 0,
    ) -> None:
        super().__init__()
        if adversarial not in GENERATOR_LOSSES:
            raise ValueError(f"adversarial must be one of {sorted(GENERATOR_LOSSES)}, got {adversarial!r}")
        if (entropy_annealing > 0) != (entropy_annealing_steps > 0):
            raise ValueError("entropy_annealing and entropy_annealing_steps go together: set both or neither")
        self.reconstruction_weight = reconstruction_weight
        self.perceptual_weight = perceptual_weight
        self.adversarial_weight = adversarial_weight
        self.quantizer_weights = dict(QUANTIZER_WEIGHTS if quantizer_weights is None else quantizer_weights)
        self.adversarial = adversarial
        self.adversarial_start = adversarial_start
        self.adaptive_adversarial = adaptive_adversarial
        self.entropy_annealing = entropy_annealing
        self.entropy_annealing_steps = entropy_annealing_steps
        self.perceptual = PerceptualLoss() if perceptual_weight > 0 else None

    def forward(
        self,
        image: Tensor,
        reconstruction: Tensor,
        quantizer_losses: Mapping[str, Tensor],
        step: int,
        fake_logits: Tensor | None = None,
        last_layer: nn.Parameter | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise, and its terms.

        Args:
            image, reconstruction: float [B, 3, H, W] in [-1, 1].
            quantizer_losses: named, unweighted scalars.
            step: training steps done so far.
            fake_logits: the discriminator's of the reconstruction; None trains without the GAN term.
            last_layer: weight of the decoder's last layer; needed with `adaptive_adversarial`.

        Returns:
            (total, terms): a scalar with graph; detached scalars by name, unweighted, with the effective weights of
            those that change (`adversarial_weight`, `entropy_weight_factor`).
        """
        terms = {"reconstruction": (image - at_least_float32(reconstruction)).abs().mean()}
        total = self.reconstruction_weight * terms["reconstruction"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(reconstruction, image).mean()
            total = total + self.perceptual_weight * terms["perceptual"]
        if fake_logits is not None:
            terms["adversarial"] = GENERATOR_LOSSES[self.adversarial](fake_logits)
            weight = self._adversarial_weight(total, terms["adversarial"], step, last_layer)
            total = total + weight * terms["adversarial"]
            terms["adversarial_weight"] = torch.as_tensor(weight)  # a number stays on the host
        total = total + self._quantizer_total(quantizer_losses, step, terms)
        return total, {"total": total.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _quantizer_total(
        self, quantizer_losses: Mapping[str, Tensor], step: int, terms: dict[str, Tensor]
    ) -> Tensor | float:
        if set(quantizer_losses) != set(self.quantizer_weights):
            raise ValueError(
                f"quantizer_weights names {sorted(self.quantizer_weights)}, but the quantizer returns "
                f"{sorted(quantizer_losses)}: give every one of its losses a weight (0 leaves it out)"
            )
        remaining = max(0.0, 1.0 - step / self.entropy_annealing_steps) if self.entropy_annealing_steps else 0.0
        factor = 1.0 + self.entropy_annealing * remaining
        if self.entropy_annealing_steps:
            terms["entropy_weight_factor"] = torch.tensor(factor)
        total: Tensor | float = 0.0
        for name, loss in quantizer_losses.items():
            weight = self.quantizer_weights[name] * (factor if "entropy" in name else 1.0)
            terms[name] = loss
            total = total + weight * loss
        return total

    def _adversarial_weight(
        self, reconstruction_total: Tensor, adversarial: Tensor, step: int, last_layer: nn.Parameter | None
    ) -> Tensor | float:
        if step < self.adversarial_start:
            return 0.0  # the term stays in the graph: under DDP every parameter takes part in every step
        if not self.adaptive_adversarial:
            return self.adversarial_weight
        if last_layer is None:
            raise ValueError("adaptive_adversarial needs the decoder's last_layer")
        return self.adversarial_weight * adaptive_weight(reconstruction_total, adversarial, last_layer)


class DiscriminatorObjective(nn.Module):
    """What the discriminator minimises.

    Args:
        loss: "hinge" (published) or "vanilla".
        lecam_weight: of the LeCAM regularizer; 0.005 in the B models, 0.05 in L.
        lecam_decay: of LeCAM's moving averages.
        start: training step from which the discriminator learns; the same as the generator's adversarial_start.
    """

    def __init__(
        self,
        loss: Literal["hinge", "vanilla"] = "hinge",
        lecam_weight: float = 0.005,
        lecam_decay: float = 0.999,
        start: int = 0,
    ) -> None:
        super().__init__()
        if loss not in DISCRIMINATOR_LOSSES:
            raise ValueError(f"loss must be one of {sorted(DISCRIMINATOR_LOSSES)}, got {loss!r}")
        self.loss = loss
        self.lecam_weight = lecam_weight
        self.start = start
        self.lecam = LeCAM(lecam_decay) if lecam_weight > 0 else None

    def forward(
        self, real_logits: Tensor, fake_logits: Tensor, step: int, fraction: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimise, and its terms.

        Args:
            real_logits, fake_logits: [B, 1, h, w], of images and of detached reconstructions.
            step: training steps done so far.
            fraction: share of the step's batch that this is (see `LeCAM.update`).

        Returns:
            (total, terms): a scalar with graph, and detached unweighted scalars by name, with the mean logits.
        """
        terms = {self.loss: DISCRIMINATOR_LOSSES[self.loss](real_logits, fake_logits)}
        total = terms[self.loss]
        if self.lecam is not None:
            self.lecam.update(real_logits, fake_logits, fraction)
            terms["lecam"] = self.lecam(real_logits, fake_logits)
            total = total + self.lecam_weight * terms["lecam"]
        total = total * float(step >= self.start)
        terms |= {"real_logits": real_logits.mean(), "fake_logits": fake_logits.mean()}
        return total, {"total": total.detach(), **{name: term.detach() for name, term in terms.items()}}


def adaptive_weight(reconstruction_total: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """|grad of the reconstruction terms| / (|grad of the GAN term| + 1e-4) at the last layer, at most 1e4.

    VQGAN (Esser et al., CVPR 2021, eq. 7) with the constants of its code; a scalar without graph.
    """
    reconstruction_grad = torch.autograd.grad(reconstruction_total, last_layer, retain_graph=True)[0]
    adversarial_grad = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    ratio = reconstruction_grad.norm() / (adversarial_grad.norm() + 1e-4)
    return ratio.clamp(0.0, 1e4).detach()
