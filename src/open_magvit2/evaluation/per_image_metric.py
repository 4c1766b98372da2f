"""Base class of metrics with a figure for each image: the same result for any batch size and number of ranks.

As in EDM2 (Karras et al., 2024): measure each sample, accumulate in float64, reduce over ranks once.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from open_magvit2.common.distributed import all_gather_object
from open_magvit2.evaluation import pixels
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
        # A copy: the batch of a loading process lies in shared memory, which keeps a file open as long as it is used.
        self._index.append(batch.index.detach().reshape(-1).clone())
        self._values.append(torch.stack([measured[name].to(torch.float64) for name in self.columns], dim=1))

    def compute(self) -> dict[str, float]:
        """The figures over all ranks; a collective call under DDP.

        Raises:
            ValueError: unless the images of all ranks are 0 .. N-1, each exactly once: a distributed sampler that pads
                its last batch would count some images twice.
        """
        mine = (torch.cat(self._index).cpu(), torch.cat(self._values).cpu()) if self._index else None
        shards = [shard for shard in all_gather_object(mine) if shard is not None]
        if not shards:
            raise ValueError("no images were seen: nothing to compute")
        index, values = (torch.cat(parts) for parts in zip(*shards, strict=True))
        order = index.argsort()
        if not torch.equal(index[order], torch.arange(len(index))):
            distinct, counts = index.unique(return_counts=True)
            raise ValueError(
                f"image indices must be 0 .. N-1, each exactly once; got {len(index)} images with {len(distinct)} "
                f"distinct indices from {distinct[0]} to {distinct[-1]}, repeated are "
                f"{distinct[counts > 1][:5].tolist()}. Does the sampler shuffle, subsample or pad?"
            )
        self.rows = {name: values[order, c] for c, name in enumerate(self.columns)}
        return self.summarize(self.rows)

    def standard_errors(self) -> dict[str, float]:
        """After `compute`: the standard error of each figure that is the mean of the column of its name."""
        figures = {name: self.rows[name] for name in self.summarize(self.rows) if name in self.rows}
        return {name: x.std(correction=1).item() / math.sqrt(len(x)) for name, x in figures.items() if len(x) > 1}

    def reset(self) -> None:
        """Forget everything."""
        self._index: list[Tensor] = []
        self._values: list[Tensor] = []
        self.rows: dict[str, Tensor] = {}
        pixels.rounded.cache_clear()
        pixels.truncated.cache_clear()
