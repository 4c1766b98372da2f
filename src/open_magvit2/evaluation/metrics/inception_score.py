"""Inception score of generated images, as OpenAI's guided-diffusion (ADM) evaluator computes it.

The mean over consecutive groups of 5,000 images in the order of the file. In class order a group of ImageNet's samples
holds 100 classes, and the score falls by a fifth and more: `inception_score_shuffled` is the same after a fixed
shuffle, which the order cannot change.
"""

import numpy as np
import torch

from open_magvit2.common import weights
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.class_probabilities import GroupedInceptionScore
from open_magvit2.protocols import EvaluationBatch

GROUP_SIZE = 5000
_SEED = 2020  # torch-fidelity's, whose score of 50,000 images this is


class GenerationInceptionScore:
    """`inception_score`, its deviation over the groups `inception_score_std`, and `inception_score_shuffled`.

    Args:
        num_images: how many all ranks will see; it decides the shuffle.
        group_size: images of a group; the last group may be smaller.
    """

    weight_files = (weights.INCEPTION,)

    def __init__(self, num_images: int, group_size: int = GROUP_SIZE) -> None:
        self.network = inception.load()
        self.group_size = group_size
        self.num_groups = -(-num_images // group_size)
        order = torch.from_numpy(np.random.RandomState(_SEED).permutation(num_images))
        self._place = torch.empty_like(order)  # int64 [N], of each image in the shuffle
        self._place[order] = torch.arange(num_images)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._in_order, self._shuffled = (GroupedInceptionScore(self.num_groups) for _ in range(2))

    def update(self, batch: EvaluationBatch) -> None:
        """Accumulate the class probabilities of a batch."""
        logits, index = self.network(batch.output, "tf").logits, batch.index.cpu()
        self._in_order.update(index // self.group_size, logits)
        self._shuffled.update(self._place[index] // self.group_size, logits)

    def compute(self) -> dict[str, float]:
        """The means over the groups; a collective call under DDP."""
        scores, shuffled = self._in_order.scores(), self._shuffled.scores()
        return {
            "inception_score": scores.mean().item(),
            "inception_score_std": scores.std(correction=0).item(),
            "inception_score_shuffled": shuffled.mean().item(),
        }
