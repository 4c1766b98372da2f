"""How often each code of a codebook is used: an integer histogram on the device, merged over ranks.

Evaluation calls the share of codes used at least once over a whole dataset "codebook utilization" (Yu et al.,
MAGVIT-v2, arXiv 2310.05737); training follows the same figure over a window of steps.
"""

import torch
from torch import Tensor

from open_magvit2.common.accumulators import sum_over_ranks
from open_magvit2.common.arguments import integer
from open_magvit2.common.distributed import all_gather_object

# An int64 table of 2^26 codes takes 512 MiB; beyond that only the codes that occur are kept.
LARGEST_TABLE = 2**26


class CodeHistogram:
    """Counts of the codes seen since the last `reset`; `update` has no Python loop and no host synchronisation.

    Args:
        codebook_size: number of codes; indices lie in [0, codebook_size). Above 2^26 the counts of the codes
            that occurred are kept as a sorted list instead of a table; merging a batch into it synchronises.
    """

    def __init__(self, codebook_size: int) -> None:
        integer(1, codebook_size=codebook_size)
        self.codebook_size = codebook_size
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self._table: Tensor | None = None  # int64 [codebook_size + 1]; the last bin takes what is out of range
        self._codes: Tensor | None = None  # int64 [U], ascending: the codes that occurred, for a large codebook
        self._counts: Tensor | None = None  # int64 [U], their counts

    @torch.no_grad()
    def restore(self, codes: Tensor, counts: Tensor) -> None:
        """Go on from what `merged` returned: int64 [U] each, on the device of the updates to come."""
        self.reset()
        if self.codebook_size > LARGEST_TABLE:
            self._codes, self._counts = codes, counts
        else:
            self._table = torch.zeros(self.codebook_size + 1, dtype=torch.int64, device=codes.device)
            self._table[codes] = counts

    @torch.no_grad()
    def update(self, indices: Tensor) -> None:
        """Count a batch of indices int64, any shape, on the device they are on."""
        if indices.is_floating_point():
            raise ValueError(f"CodeHistogram expects integer indices, got {indices.dtype}")
        flat = indices.reshape(-1).to(torch.int64)
        if self.codebook_size > LARGEST_TABLE:
            self._update_list(flat)
            return
        if self._table is None:
            self._table = torch.zeros(self.codebook_size + 1, dtype=torch.int64, device=flat.device)
        # Out-of-range indices get a bin of their own, which `merged` reports: raising here would synchronise.
        in_range = (flat >= 0) & (flat < self.codebook_size)
        bins = torch.where(in_range, flat, self.codebook_size)
        self._table.index_add_(0, bins, torch.ones_like(bins))

    def _update_list(self, flat: Tensor) -> None:
        """Merge a batch into the sorted list of codes and counts."""
        ones = torch.ones_like(flat)
        if self._codes is not None:
            flat, ones = torch.cat([self._codes, flat]), torch.cat([self._counts, ones])
        self._codes, self._counts = _count(flat, ones)

    def merged(self) -> tuple[Tensor, Tensor]:
        """The codes seen by all ranks and how often; a collective call under DDP.

        Returns:
            (codes, counts): int64 [U] each on the CPU, codes ascending, counts at least 1.

        Raises:
            ValueError: if an index was outside [0, codebook_size).
        """
        if self.codebook_size <= LARGEST_TABLE:
            table = sum_over_ranks(self._table, (self.codebook_size + 1,), torch.int64)
            codes = table.nonzero().flatten()
            codes, counts = codes.cpu(), table[codes].cpu()
        else:
            empty = torch.empty(0, dtype=torch.int64)
            mine = (empty, empty) if self._codes is None else (self._codes.cpu(), self._counts.cpu())
            shards = all_gather_object(mine)
            codes, counts = _count(torch.cat([s[0] for s in shards]), torch.cat([s[1] for s in shards]))
        if codes.numel() and (codes[0] < 0 or codes[-1] >= self.codebook_size):
            raise ValueError(
                f"indices outside [0, {self.codebook_size}): is that the codebook_size of their tokenizer?"
            )
        return codes, counts

    def compute(self) -> dict[str, float]:
        """The figures of `usage` over all ranks; a collective call under DDP."""
        _, counts = self.merged()
        return usage(counts, self.codebook_size)


def usage(counts: Tensor, codebook_size: int) -> dict[str, float]:
    """Figures of a histogram.

    Args:
        counts: int64 [U], how often each code was used; codes that never occurred may be left out.
        codebook_size: number of codes there are.

    Returns:
        used: codes with a count of at least 1.
        utilization: used / codebook_size, in [0, 1].
        entropy_bits: -sum p log2 p, in [0, log2(codebook_size)].
        perplexity: 2 ** entropy_bits, the size of a uniformly used codebook of this entropy.
        All are 0 for an empty histogram.
    """
    counts = counts[counts > 0].to(torch.float64)
    if counts.numel() == 0:
        return {"used": 0.0, "utilization": 0.0, "entropy_bits": 0.0, "perplexity": 0.0}
    share = counts / counts.sum()
    entropy = max(0.0, -(share * share.log2()).sum().item())
    used = float(counts.numel())
    return {
        "used": used,
        "utilization": used / codebook_size,
        "entropy_bits": entropy,
        "perplexity": 2.0**entropy,
    }


def _count(codes: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct codes, ascending, with the sums of their counts."""
    distinct, position = torch.unique(codes, return_inverse=True)
    return distinct, torch.zeros_like(distinct).index_add_(0, position, counts)
