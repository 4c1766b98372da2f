"""The tokenizer's own objective: weights times named terms.

The defaults are the published B recipe (Luo et al., Open-MAGVIT2, arXiv 2409.04410), whose GAN terms are those of
`losses.adversarial.Adversary`:

    |x - x'| + LPIPS + 0.1 (sample entropy - codebook entropy) + 0.25 commitment
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import at_least, finite, integer
from open_magvit2.common.precision import at_least_float32
from open_magvit2.losses.perceptual import PerceptualLoss

LFQ_WEIGHTS = {"sample_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25}


class GeneratorObjective(nn.Module):
    """The loss of encoder, quantizer and decoder, without the GAN term.

    Args:
        reconstruction_weight: of the mean absolute error.
        perceptual_weight: of LPIPS (VGG); 0 loads no network at all.
        quantizer_weights: weight of every loss that the quantizer returns, by name; a negative weight maximises.
            Names must match the quantizer's exactly.
        entropy_annealing: r; the weights of `annealed_losses` start (1 + r) times larger ...
        entropy_annealing_steps: ... and decay linearly to their value over so many steps (r = 3 over 2,000 steps in
            MAGVIT-v2; off in the published B models).
        annealed_losses: names of the quantizer's losses whose weights are annealed.

    Raises:
        ValueError: for numbers out of range, annealing without steps, or of a loss that has no weight.
    """

    def __init__(
        self,
        reconstruction_weight: float = 1.0,
        perceptual_weight: float = 1.0,
        quantizer_weights: dict[str, float] | None = None,
        entropy_annealing: float = 0.0,
        entropy_annealing_steps: int = 0,
        annealed_losses: Sequence[str] = ("sample_entropy", "codebook_entropy"),
    ) -> None:
        super().__init__()
        at_least(0, reconstruction_weight=reconstruction_weight, perceptual_weight=perceptual_weight)
        at_least(0, entropy_annealing=entropy_annealing)
        integer(0, entropy_annealing_steps=entropy_annealing_steps)
        if (entropy_annealing > 0) != (entropy_annealing_steps > 0):
            raise ValueError("entropy_annealing and entropy_annealing_steps go together: set both or neither")
        self.reconstruction_weight = reconstruction_weight
        self.perceptual_weight = perceptual_weight
        self.entropy_annealing = entropy_annealing
        self.entropy_annealing_steps = entropy_annealing_steps
        self.annealed_losses = tuple(annealed_losses) if entropy_annealing else ()
        self._has_default_weights = quantizer_weights is None
        self._set_quantizer_weights(LFQ_WEIGHTS if quantizer_weights is None else quantizer_weights)
        self.perceptual = PerceptualLoss() if perceptual_weight > 0 else None

    def use_weights_of(self, quantizer: nn.Module) -> None:
        """Take the `loss_weights` of a quantizer that has them, unless the constructor got `quantizer_weights`."""
        if self._has_default_weights:
            self._set_quantizer_weights(getattr(quantizer, "loss_weights", self.quantizer_weights))

    def _set_quantizer_weights(self, weights: Mapping[str, float]) -> None:
        unknown = sorted(set(self.annealed_losses) - set(weights))
        if unknown:
            raise ValueError(
                f"annealed_losses names {unknown}, which have no weight in quantizer_weights {sorted(weights)}"
            )
        finite(**{f"quantizer_weights.{name}": weight for name, weight in weights.items()})
        self.quantizer_weights = dict(weights)

    def forward(
        self, image: Tensor, reconstruction: Tensor, quantizer_losses: Mapping[str, Tensor], step: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The total to minimise, and its terms.

        Args:
            image, reconstruction: float [B, 3, H, W] in [-1, 1].
            quantizer_losses: named, unweighted scalars.
            step: training steps done so far.

        Returns:
            (distance, total, terms): the weighted distance between the images, and with the quantizer's losses added,
            scalars with graph; detached unweighted scalars by name, with `entropy_weight_factor` where weights change.

        Raises:
            ValueError: for a quantizer's loss without a weight, or a weight without a loss.
        """
        terms = {"reconstruction": (image - at_least_float32(reconstruction)).abs().mean()}
        distance = self.reconstruction_weight * terms["reconstruction"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(reconstruction, image).mean()
            distance = distance + self.perceptual_weight * terms["perceptual"]
        total = distance + self._quantizer_total(quantizer_losses, step, terms)
        return distance, total, {name: term.detach() for name, term in terms.items()}

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
            weight = self.quantizer_weights[name] * (factor if name in self.annealed_losses else 1.0)
            terms[name] = loss
            total = total + weight * loss
        return total
