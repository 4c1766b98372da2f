"""Codebook utilization, perplexity and entropy over the whole dataset, and how well the bits of an index are used.

Utilization as in Open-MAGVIT2 (arXiv 2409.04410): the share of codes used at least once on the evaluated images. An
index into 2^K codes has K bits; ideally each is 1 half of the time, and all are independent.
"""

import torch
from torch import Tensor

from open_magvit2.common.codebook import CodeHistogram, usage
from open_magvit2.protocols import EvaluationBatch


class CodebookUsage:
    """How the codes are used, over all images.

    - codebook_utilization, codebook_used, codebook_entropy_bits, codebook_perplexity: see `common.codebook.usage`.
    - For 2^K codes: codebook_bit_balance, the share of ones of the least balanced bit brought into [0, 1/2] (1/2 is
      best); codebook_bit_entropy, the mean entropy of a single bit (1 is best); codebook_bit_mutual_information, the
      mutual information of two bits averaged over all pairs, in bits (0 is best).

    After `compute`, `details` holds what a report draws: bit_means [K], bit_mutual_information [K, K] and
    sorted_counts, the counts of the used codes in descending order.
    """

    def __init__(self, codebook_size: int) -> None:
        self.histogram = CodeHistogram(codebook_size)
        self.details: dict[str, Tensor] = {}

    def update(self, batch: EvaluationBatch) -> None:
        """Count the indices of a batch."""
        self.histogram.update(batch.indices)

    def compute(self) -> dict[str, float]:
        """The figures over all ranks; a collective call under DDP."""
        size = self.histogram.codebook_size
        codes, counts = self.histogram.merged()
        result = {f"codebook_{name}": figure for name, figure in usage(counts, size).items()}
        self.details = {"sorted_counts": counts.sort(descending=True).values}
        num_bits = size.bit_length() - 1
        if size == 2**num_bits and num_bits > 0 and counts.numel():
            means, information = bit_statistics(codes, counts, num_bits)
            self.details |= {"bit_means": means, "bit_mutual_information": information}
            pairs = ~torch.eye(num_bits, dtype=torch.bool)
            result["codebook_bit_balance"] = torch.minimum(means, 1.0 - means).min().clamp_min(0.0).item()
            result["codebook_bit_entropy"] = information.diagonal().mean().item()
            result["codebook_bit_mutual_information"] = information[pairs].mean().item() if num_bits > 1 else 0.0
        return result

    def reset(self) -> None:
        """Forget everything."""
        self.histogram.reset()
        self.details = {}


def bit_statistics(codes: Tensor, counts: Tensor, num_bits: int) -> tuple[Tensor, Tensor]:
    """Share of ones of each bit, and the mutual information of each pair of bits.

    Args:
        codes: int64 [U], distinct codes in [0, 2^num_bits).
        counts: int64 [U], how often each occurred.
        num_bits: K.

    Returns:
        means: float64 [K], bit k being (code >> k) & 1.
        information: float64 [K, K], sum over the four joint states of p log2(p / (p_i p_j)), in bits; the diagonal is
            each bit's entropy.
    """
    weights = counts.to(torch.float64) / counts.sum()
    bits = ((codes[:, None] >> torch.arange(num_bits)) & 1).to(torch.float64)
    both = bits.T @ (weights[:, None] * bits)  # [K, K], P(i = 1 and j = 1)
    means = both.diagonal().clone()
    row, column = means[:, None], means[None, :]
    states = (  # the joint probability of two bits, and the product of its marginals
        (both, row * column),
        (row - both, row * (1.0 - column)),
        (column - both, (1.0 - row) * column),
        (1.0 - row - column + both, (1.0 - row) * (1.0 - column)),
    )
    information = torch.zeros_like(both)
    for joint, independent in states:
        joint = joint.clamp_min(0.0)  # a difference of equal numbers may come out as -1e-17
        information += joint * torch.where(joint > 0, joint / independent, 1.0).log2()
    return means, information.clamp_min_(0.0)
