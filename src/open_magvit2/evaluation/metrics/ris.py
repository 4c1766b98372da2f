"""Inception score of the reconstructions: exp(mean KL(p(class | image) || p(class))), Salimans et al. 2016.

torch-fidelity's convention: 8-bit pixels, TensorFlow's resize, ten splits in a fixed random order, mean and deviation
over the splits. In the dataset's order, sorted by class, the same images score a fifth lower.
"""

import numpy as np
import torch

from open_magvit2.common import weights
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.class_probabilities import GroupedInceptionScore
from open_magvit2.protocols import EvaluationBatch

_NUM_SPLITS = 10
_SEED = 2020  # torch-fidelity's


class ReconstructionInceptionScore:
    """`ris` and `ris_std`, in constant memory: per split only the sums of p and of p log p are kept.

    The number of images decides which of them share a split.
    """

    weight_files = (weights.INCEPTION,)

    def __init__(self, num_images: int) -> None:
        self.network = inception.load()
        order = torch.from_numpy(np.random.RandomState(_SEED).permutation(num_images))
        ends = torch.arange(1, _NUM_SPLITS + 1) * num_images // _NUM_SPLITS  # of the splits, in that order
        self._split = torch.empty_like(order)  # int64 [N], of each image
        self._split[order] = torch.bucketize(torch.arange(num_images), ends, right=True)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._groups = GroupedInceptionScore(_NUM_SPLITS)

    def update(self, batch: EvaluationBatch) -> None:
        """Accumulate the class probabilities of a batch."""
        self._groups.update(self._split[batch.index.cpu()], self.network(batch.output, "tf").logits)

    def compute(self) -> dict[str, float]:
        """Mean and standard deviation over the splits that hold images; a collective call under DDP."""
        scores = self._groups.scores()
        return {"ris": scores.mean().item(), "ris_std": scores.std(correction=0).item()}
