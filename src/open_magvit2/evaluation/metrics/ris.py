"""Inception score of the reconstructions: exp(mean KL(p(class | image) || p(class))), Salimans et al. 2016.

torch-fidelity's convention: 8-bit pixels, TensorFlow's resize, ten splits in a fixed random order, mean and deviation
over the splits. In the dataset's order, sorted by class, the same images score a fifth lower.
"""

import numpy as np
import torch
from torch import Tensor

from open_magvit2.common import weights
from open_magvit2.common.accumulators import sum_over_ranks
from open_magvit2.evaluation.features import inception
from open_magvit2.protocols import EvaluationBatch

_NUM_SPLITS = 10
_SEED = 2020  # torch-fidelity's
_NUM_CLASSES = 1008


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
        self._sums: Tensor | None = None  # float64 [splits, classes + 1]: sums of p, and of sum_c p log p

    @torch.no_grad()
    def update(self, batch: EvaluationBatch) -> None:
        """Accumulate the class probabilities of a batch."""
        log_p = self.network(batch.output, "tf").logits.to(torch.float64).log_softmax(dim=1)
        p = log_p.exp()
        rows = torch.cat([p, (p * log_p).sum(dim=1, keepdim=True)], dim=1)
        if self._sums is None:
            self._sums = rows.new_zeros(_NUM_SPLITS, _NUM_CLASSES + 1)
            self._split = self._split.to(rows.device)
        self._sums.index_add_(0, self._split[batch.index.to(rows.device)], rows)

    def compute(self) -> dict[str, float]:
        """Mean and standard deviation over the splits that hold images; a collective call under DDP."""
        sums = sum_over_ranks(self._sums, (_NUM_SPLITS, _NUM_CLASSES + 1), torch.float64).cpu()
        number = self._split.bincount(minlength=_NUM_SPLITS).cpu()[:, None]
        means = (sums / number)[number[:, 0] > 0]
        p = means[:, :-1]
        scores = (means[:, -1] - torch.special.xlogy(p, p).sum(dim=1)).exp()
        return {"ris": scores.mean().item(), "ris_std": scores.std(correction=0).item()}
