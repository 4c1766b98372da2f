"""Distances between sets of features and to their nearest neighbours, block by block, over all ranks.

Everything is float64: |x|^2 + |y|^2 - 2xy cancels, and precision and recall count on which side of a radius a distance
lies. No more than one block of distances is in memory.
"""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from open_magvit2.common.distributed import all_gather_object, is_distributed, rank

BLOCK = 4096  # rows and columns of the distances in memory at once, 128 MiB
_ROUNDING = 1e-13  # relative; below it two features are equal


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Squared Euclidean distances float64 [n, m] of features [n, D] and [m, D]; exactly 0 between equal ones."""
    first, second = first.to(torch.float64), second.to(torch.float64)
    norms = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)
    distances = torch.addmm(norms, first, second.T, alpha=-2.0)
    return distances.masked_fill_(distances <= _ROUNDING * norms, 0.0)


def nearest(rows: Tensor, columns: Iterable[Tensor], number: int) -> Tensor:
    """The smallest squared distances from each row to all columns, ascending.

    Args:
        rows: features [n, D].
        columns: blocks of features [m, D], of all columns together at least `number`.
        number: how many.

    Returns:
        float64 [n, number]. Where the rows are among the columns, the first is 0, a row's distance to itself, and the
        k-th neighbour is at position k.
    """
    smallest = torch.full((len(rows), number), math.inf, dtype=torch.float64, device=rows.device)
    for block in columns:
        for part in _blocks(len(rows)):
            candidates = torch.cat([smallest[part], squared_distances(rows[part], block)], dim=1)
            smallest[part] = candidates.topk(number, dim=1, largest=False).values
    return smallest


def blocks_over_ranks(features: Tensor) -> Iterator[Tensor]:
    """The features [n, D] of every rank, at most `BLOCK` rows at a time; every step is a collective call under DDP.

    Args:
        features: this rank's, on a device that the process group takes.
    """
    for source, number in enumerate(all_gather_object(len(features))):
        for part in _blocks(number):
            size = min(part.stop, number) - part.start
            block = features[part] if source == rank() else features.new_empty(size, features.shape[1])
            if is_distributed():
                block = block.contiguous()
                dist.broadcast(block, source)
            yield block


def pairs(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows, columns, their squared distances), block by block, of features [n, D] and [m, D]."""
    for row_part in _blocks(len(rows)):
        for column_part in _blocks(len(columns)):
            yield row_part, column_part, squared_distances(rows[row_part], columns[column_part])


def _blocks(number: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, number, BLOCK))
