"""Base class of metrics with a figure for each image: the same result for any batch size and number of ranks.

As in EDM2 (Karras et al., 2024): measure each sample, accumulate in float64, reduce over ranks once.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from open_magvit2.common.distributed import all_gather_object
from open_magvit2.protocols import EvaluationBatch


class PerImageMetric(ABC):
    """A subclass names its columns and measures a batch.

    After `compute`, `rows` holds the columns over all images in the order of the dataset, float64 [N] on the CPU.
    """

    columns: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        """One tensor [B] for each column."""

    def summarize(self, rows: dict[str, Tensor]) -> dict[str, float]:
        """The figures of the dataset from its columns float64 [N]; by default each column's mean."""
        return {name: column.mean().item() for name, column in rows.items()}

    @torch.no_grad()
    def update(self, batch: EvaluationBatch) -> None:
        """Measure a batch; nothing is copied to the host."""
        measured = self.measure(batch)
        assert tuple(measured) == self.columns
        self._index.append(batch.index.detach().reshape(-1))
        self._values.append(torch.stack([measured[name].to(torch.float64) for name in self.columns], dim=1))

    def compute(self) -> dict[str, float]:
        """The figures over all ranks; a collective call under DDP.

        Raises:
            ValueError: unless the images of all ranks are 0 .. N-1, each exactly once.
        """
        if self._index:
            index, values = torch.cat(self._index), torch.cat(self._values)
        else:
            index, values = torch.empty(0, dtype=torch.int64), torch.empty(0, len(self.columns), dtype=torch.float64)
        table = gather_by_index(index, values)
        self.rows = {name: table[:, c].contiguous() for c, name in enumerate(self.columns)}
        return self.summarize(self.rows)

    def standard_errors(self) -> dict[str, float]:
        """After `compute`: the standard error of each figure that is the mean of the column of its name."""
        number = len(next(iter(self.rows.values())))
        if number < 2:
            return {}
        names = [name for name in self.summarize(self.rows) if name in self.rows]
        return {name: self.rows[name].std(correction=1).item() / math.sqrt(number) for name in names}

    def reset(self) -> None:
        """Forget everything."""
        self._index: list[Tensor] = []
        self._values: list[Tensor] = []
        self.rows: dict[str, Tensor] = {}


def gather_by_index(index: Tensor, values: Tensor) -> Tensor:
    """The rows of all ranks in the order of the dataset; a collective call under DDP.

    Args:
        index: int64 [n], the indices of this rank's images; n may differ between ranks and be 0.
        values: float64 [n, C], their rows.

    Returns:
        float64 [N, C] on the CPU, row i belonging to image i.

    Raises:
        ValueError: unless the indices of all ranks are 0 .. N-1, each exactly once: a distributed sampler that pads
            its last batch would count some images twice.
    """
    shards = all_gather_object((index.cpu(), values.cpu()))
    index = torch.cat([shard[0] for shard in shards])
    rows = torch.cat([shard[1] for shard in shards])
    number = index.numel()
    if number == 0:
        raise ValueError("no images were seen: nothing to compute")
    order = index.argsort()
    if not torch.equal(index[order], torch.arange(number)):
        distinct, counts = index.unique(return_counts=True)
        repeated = distinct[counts > 1]
        raise ValueError(
            f"image indices must be 0 .. N-1, each exactly once; got {number} images with {distinct.numel()} distinct "
            f"indices from {distinct[0]} to {distinct[-1]}, {repeated.numel()} of them repeated (first: "
            f"{repeated[:5].tolist()}). Does the sampler shuffle, subsample or pad?"
        )
    return rows[order]
