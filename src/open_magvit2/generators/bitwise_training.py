"""Training of the bit-wise generator: the masked bits of each token from its other bits and the tokens before (BAR)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from open_magvit2.generators.bitwise import BitwiseGenerator, BitwiseSampling
from open_magvit2.generators.masking import MaskSchedule, training_mask
from open_magvit2.generators.training import GeneratorTraining, Prediction
from open_magvit2.protocols import Tokenizer


class BitwiseTraining(GeneratorTraining):
    """Minimises the cross-entropy of the masked bits, with the true tokens as input.

    Args:
        generator: trained.
        tokenizer: see `GeneratorTraining`.
        mask_schedule: of the share of masked bits, drawn for each token.
        sampling: of the pictures at validation.
        options: of `GeneratorTraining`.
    """

    def __init__(
        self,
        generator: BitwiseGenerator,
        tokenizer: Tokenizer | None = None,
        mask_schedule: MaskSchedule = "arccos",
        sampling: BitwiseSampling | None = None,
        **options: Any,
    ) -> None:
        super().__init__(generator, tokenizer, **options)
        self.mask_schedule: MaskSchedule = mask_schedule
        self.sampling = BitwiseSampling(guidance=2.0) if sampling is None else sampling

    def draw(self, stream: torch.Generator, step: int | None) -> dict[str, Tensor]:
        """The mask, bool [N, K]."""
        shape = (self.generator.num_tokens, 1, self.generator.num_bits)
        return {"is_masked": training_mask(shape, self.mask_schedule, stream)[:, 0]}

    def predict(self, sub_tokens: Tensor, labels: Tensor, drawn: Mapping[str, Tensor]) -> Prediction:
        """The masked bits, as sub-tokens of two values."""
        is_masked = drawn["is_masked"]
        logits = self.generator(sub_tokens, is_masked, labels)
        pairs = torch.stack([torch.zeros_like(logits), logits], dim=-1)  # sigmoid(l) = softmax(0, l)
        return Prediction(pairs.unbind(2), is_masked, is_masked)

    def sample(self, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Sample with the settings `sampling`."""
        return self.generator.generate(labels, seeds, self.sampling)
