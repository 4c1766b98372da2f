"""The Inception score of groups of images, exp(mean KL(p(class | image) || p(class))), in constant memory.

Salimans et al., "Improved Techniques for Training GANs" (2016). Of each group only the sums of p and of p log p are
kept, in float64.
"""

import torch
from torch import Tensor

from open_magvit2.common.accumulators import sum_over_ranks

NUM_CLASSES = 1008  # of the Inception network


class GroupedInceptionScore:
    """The score of each of `num_groups` groups; images go to their groups in any order, on any rank."""

    def __init__(self, num_groups: int, num_classes: int = NUM_CLASSES) -> None:
        self.shape = (num_groups, num_classes + 2)  # sums of p, of sum_c p log p, and of 1
        self._sums: Tensor | None = None

    @torch.no_grad()
    def update(self, groups: Tensor, logits: Tensor) -> None:
        """Accumulate the logits float [B, classes] of images whose groups are int64 [B]."""
        log_p = logits.to(torch.float64).log_softmax(dim=1)
        p = log_p.exp()
        rows = torch.cat([p, (p * log_p).sum(dim=1, keepdim=True), torch.ones_like(p[:, :1])], dim=1)
        if self._sums is None:
            self._sums = rows.new_zeros(self.shape)
        self._sums.index_add_(0, groups.to(rows.device), rows)

    def scores(self) -> Tensor:
        """float64 [G] of the groups that hold images, in order; a collective call under DDP.

        Raises:
            ValueError: without images.
        """
        sums = sum_over_ranks(self._sums, self.shape, torch.float64).cpu()
        number = sums[:, -1:]
        means = (sums[:, :-1] / number)[number[:, 0] > 0]
        if not len(means):
            raise ValueError("an Inception score needs at least 1 image, got 0")
        p = means[:, :-1]
        return (means[:, -1] - torch.special.xlogy(p, p).sum(dim=1)).exp()
