"""Training of the autoregressive generator: the next sub-token, given all before it (Luo et al., arXiv 2409.04410)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.prediction import Prediction
from open_magvit2.generators.sampling import Sampling, SubTokenSampling, sample
from open_magvit2.generators.training import GeneratorTraining
from open_magvit2.protocols import Tokenizer


class AutoregressiveTraining(GeneratorTraining):
    """Minimises the sum of the sub-tokens' cross-entropies with the true tokens as input.

    It also logs bits_per_dimension, the code length of an image's tokens by the values of its pixels.

    Args:
        generator: trained.
        tokenizer: see `GeneratorTraining`.
        guidance: of the pictures at validation.
        options: of `GeneratorTraining`.
    """

    def __init__(
        self,
        generator: AutoregressiveGenerator,
        tokenizer: Tokenizer | None = None,
        guidance: float = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(generator, tokenizer, **options)
        self.guidance = guidance

    def draw(self, stream: torch.Generator) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def predict(self, sub_tokens: Tensor, labels: Tensor, drawn: Mapping[str, Tensor]) -> Prediction:
        """All sub-tokens."""
        return Prediction(self.generator(sub_tokens, labels))

    def sample(self, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Plain sampling with `guidance`."""
        return sample(self.generator, labels, seeds, Sampling([SubTokenSampling(guidance=self.guidance)]))

    def figures(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Bits by value of a pixel, where the size of the images is known."""
        size = self._made_by.get("image_size")
        if size is None:
            return {}
        nats = sum(losses[f"loss_{group}"] for group in range(len(self.generator.bits)))
        return {"bits_per_dimension": nats * self.generator.num_tokens / (math.log(2) * 3 * math.prod(size))}
