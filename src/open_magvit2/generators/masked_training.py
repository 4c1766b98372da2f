"""Training of the masked generator: the missing sub-tokens from the others (MaskGIT, MAGVIT-v2, MaskBit)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common.arguments import within
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.generators.masking import MaskedSampling, MaskSchedule, sample_masked, training_mask
from open_magvit2.generators.prediction import Prediction
from open_magvit2.generators.training import GeneratorTraining
from open_magvit2.protocols import Tokenizer


class MaskedTraining(GeneratorTraining):
    """Minimises the cross-entropy of all sub-tokens, masked and unmasked (MaskBit's recipe).

    The logged losses of single sub-tokens and the accuracies are of masked ones.

    Args:
        generator: trained.
        tokenizer: see `GeneratorTraining`.
        mask_schedule: of the shares of masked sub-tokens, each (position, group) alone.
        unmasked_weight: of a sub-token that is not masked in the loss: 1 in MaskBit, 0.1 in TiTok, 0 in MaskGIT.
        label_smoothing: of the loss.
        sampling: of the pictures at validation.
        options: of `GeneratorTraining`.

    Raises:
        ValueError: for a weight outside [0, 1].
    """

    def __init__(
        self,
        generator: MaskedGenerator,
        tokenizer: Tokenizer | None = None,
        mask_schedule: MaskSchedule = "arccos",
        unmasked_weight: float = 1.0,
        label_smoothing: float = 0.1,
        sampling: MaskedSampling | None = None,
        **options: Any,
    ) -> None:
        super().__init__(generator, tokenizer, label_smoothing=label_smoothing, **options)
        within(0, 1, include_high=True, unmasked_weight=unmasked_weight)
        self.mask_schedule: MaskSchedule = mask_schedule
        self.unmasked_weight = unmasked_weight
        self.sampling = MaskedSampling() if sampling is None else sampling

    def draw(self, stream: torch.Generator, step: int | None) -> dict[str, Tensor]:
        """The mask, bool [N, G]."""
        shape = (1, self.generator.num_tokens, len(self.generator.bits))
        return {"is_masked": training_mask(shape, self.mask_schedule, stream)[0]}

    def predict(self, sub_tokens: Tensor, labels: Tensor, drawn: Mapping[str, Tensor]) -> Prediction:
        """All sub-tokens, given those that are not masked."""
        is_masked = drawn["is_masked"]
        logits = self.generator(sub_tokens, is_masked, labels)
        weight = None if self.unmasked_weight == 1.0 else is_masked + self.unmasked_weight * ~is_masked
        return Prediction(logits, weight, is_masked)

    def sample(self, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Sample with the settings `sampling`."""
        return sample_masked(self.generator, labels, seeds, self.sampling)
