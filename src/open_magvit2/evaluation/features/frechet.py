"""The Frechet distance of two Gaussians and their moments, in float64 and constant memory.

Dowson and Landau (1982); used on Inception features by Heusel et al., "GANs Trained by a Two Time-Scale Update Rule"
(2017), equation 6. In float32 the matrix root alone is wrong by more than a good tokenizer's rFID.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from open_magvit2.common.accumulators import sum_over_ranks
from open_magvit2.common.distributed import world_size

_BUFFER_ROWS = 1024


class Gaussian(NamedTuple):
    """Moments of a set of features."""

    mean: Tensor  # float64 [D]
    covariance: Tensor  # float64 [D, D], with the sample correction n / (n - 1)
    number: int  # n, how many features
    root: Tensor | None = None  # float64 [R, D] with root^T root = covariance, where it is known


def gaussian_of(features: Tensor) -> Gaussian:
    """Moments of a few features float [n, D] on one process; their distances need no eigenvalues of [D, D] matrices.

    Raises:
        ValueError: with fewer than two features, which have no covariance.
    """
    _check_number(len(features))
    values = features.to(torch.float64)
    mean = values.mean(dim=0)
    root = (values - mean) / math.sqrt(len(values) - 1)
    return Gaussian(mean, root.T @ root, len(values), root)


class Moments:
    """Streaming first and second moments of features [n, D] on the device of the first update.

    Rows wait in a buffer until they are more than 1024, so that the float64 product of the second moment is one matrix
    product a buffer. The moments of no more rows, on one process, are those of `gaussian_of`.
    """

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._number: Tensor | None = None  # int64 []
        self._sum: Tensor | None = None  # float64 [D]
        self._products: Tensor | None = None  # float64 [D, D], sum of x x^T
        self._buffer: list[Tensor] = []

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Accumulate features float [n, D]."""
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(f"expected features [n, {self.num_features}], got {tuple(features.shape)}")
        self._buffer.append(features.to(torch.float64))
        if sum(map(len, self._buffer)) > _BUFFER_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        rows = torch.cat(self._buffer)
        if self._sum is None:
            self._number = rows.new_zeros((), dtype=torch.int64)
            self._sum = rows.new_zeros(self.num_features)
            self._products = rows.new_zeros(self.num_features, self.num_features)
        self._number += len(rows)
        self._sum += rows.sum(dim=0)
        self._products.addmm_(rows.T, rows)
        self._buffer = []

    def gaussian(self) -> Gaussian:
        """Mean and covariance over all ranks; a collective call under DDP.

        Raises:
            ValueError: with fewer than two features, which have no covariance.
        """
        if self._number is None and self._buffer and world_size() == 1:
            return gaussian_of(torch.cat(self._buffer))
        self._flush()
        size = self.num_features
        number = int(sum_over_ranks(self._number, (), torch.int64))
        total = sum_over_ranks(self._sum, (size,), torch.float64)
        products = sum_over_ranks(self._products, (size, size), torch.float64)
        _check_number(number)
        mean = total / number
        return Gaussian(mean, (products - number * torch.outer(mean, mean)) / (number - 1), number)


def _check_number(number: int) -> None:
    if number < 2:
        raise ValueError(f"a Frechet distance needs at least 2 images, got {number}")


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), for full and for deficient rank.

    With C = R^T R the trace of the root is the sum of the singular values of R1 R2^T. Unlike the eigenvalues of C1 C2,
    whose rounding errors of 1e-16 become 1e-8 under the root once for each missing rank, singular values are exact to
    1e-16 of the largest.

    Returns:
        the distance, at least 0; NaN where a moment is not finite, as those of a diverged model are (LAPACK may return
        NaN, which max() turns into 0, a perfect score).
    """
    if not all(moment.isfinite().all() for g in (first, second) for moment in (g.mean, g.covariance)):
        return math.nan
    difference = (first.mean - second.mean.to(first.mean.device)).square().sum()
    one, other = _root(first), _root(second).to(first.mean.device)
    root = torch.linalg.svdvals(one @ other.T).sum() if len(one) and len(other) else difference.new_zeros(())
    traces = one.square().sum() + other.square().sum()
    return max(0.0, (difference + traces - 2.0 * root).item())


def _root(gaussian: Gaussian) -> Tensor:
    """R [r, D] with R^T R = C, r being the rank of C in float64: eigenvalues below rounding are left out."""
    if gaussian.root is not None:
        return gaussian.root
    values, vectors = torch.linalg.eigh(gaussian.covariance)
    keep = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return values[keep].sqrt()[:, None] * vectors[:, keep].T
