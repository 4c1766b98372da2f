"""Training of the autoregressive generator: the next sub-token, given all before it (Luo et al., arXiv 2409.04410)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common.arguments import integer
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.prediction import Prediction
from open_magvit2.generators.sampling import Sampling, SubTokenSampling, sample
from open_magvit2.generators.training import GeneratorTraining
from open_magvit2.protocols import Tokenizer


class AutoregressiveTraining(GeneratorTraining):
    """Minimises the sum of the sub-tokens' cross-entropies with the true tokens as input.

    It also logs bits_per_dimension, the code length of an image's tokens divided by its number of values, 3 H W.

    Args:
        generator: trained.
        tokenizer: see `GeneratorTraining`.
        guidance: of the pictures at validation.
        random_order_steps: (first, last) training steps between which the share of samples that are learned in a random
            order falls linearly: it is 1 until `first` and 0 from `last` on (RAR, arXiv 2411.00776); None learns in
            raster order alone. The generator needs `target_positions`.
        options: of `GeneratorTraining`.

    Raises:
        ValueError: for steps that are not 0 <= first <= last, or a generator without target positions.
    """

    def __init__(
        self,
        generator: AutoregressiveGenerator,
        tokenizer: Tokenizer | None = None,
        guidance: float = 2.0,
        random_order_steps: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(generator, tokenizer, **options)
        self.guidance = guidance
        if random_order_steps is not None:
            integer(0, random_order_steps=random_order_steps)
            if random_order_steps[0] > random_order_steps[1] or not generator.target_positions:
                raise ValueError(
                    f"random_order_steps must be (first, last) with a generator of target_positions: true, got "
                    f"{random_order_steps} and target_positions: {generator.target_positions}"
                )
        self.random_order_steps = random_order_steps

    def random_share(self, step: int | None) -> float:
        """The share of samples in a random order at a training step; 0 in validation (None)."""
        if self.random_order_steps is None or step is None:
            return 0.0
        first, last = self.random_order_steps
        return 1.0 - min(1.0, max(0.0, (step - first) / (last - first))) if last > first else float(step < first)

    def draw(self, stream: torch.Generator, step: int | None) -> dict[str, Tensor]:
        """The order int64 [N] of a sample, while some are random."""
        share, number = self.random_share(step), self.generator.num_tokens
        if share == 0.0:
            return {}
        is_random = bool(torch.rand((), generator=stream) < share)
        return {"order": torch.randperm(number, generator=stream) if is_random else torch.arange(number)}

    def predict(self, sub_tokens: Tensor, labels: Tensor, drawn: Mapping[str, Tensor]) -> Prediction:
        """All sub-tokens."""
        return Prediction(self.generator(sub_tokens, labels, drawn.get("order")))

    def sample(self, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Plain sampling with `guidance`."""
        return sample(self.generator, labels, seeds, Sampling([SubTokenSampling(guidance=self.guidance)]))

    def figures(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Bits per dimension, where the size of the images is known."""
        size = self._made_by.get("image_size")
        if size is None:
            return {}
        nats = sum(losses[f"loss_{group}"] for group in range(len(self.generator.bits)))
        return {"bits_per_dimension": nats * self.generator.num_tokens / (math.log(2) * 3 * math.prod(size))}
