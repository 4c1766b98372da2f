"""Several sources mixed by weight, as one endless stream for training."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from open_magvit2.common.arguments import above, integer
from open_magvit2.common.files import sha256
from open_magvit2.data.dataset import Source, is_stream
from open_magvit2.data.order import random_stream
from open_magvit2.data.streaming import check_part, parts_of

_PERIOD = 10_000  # samples in which every source has its share exactly


class Mixture(Source):
    """Each sample comes from one of the sources, in proportion to the weights; each source goes on by itself.

    In every 10,000 samples of a loading process each source has its share exactly, in an order that is a function of
    the seed and the process: how often each was drawn so far needs no memory, and a continued training goes on in each
    source at the right sample. A small source is repeated, in a new order every time.

    Args:
        sources: streams, or sources with random access; they may be mixed themselves.
        weights: one a source, above 0; only their ratios count.
        seed: of the order.

    Raises:
        ValueError: for weights that do not fit, or a share below 1 in 10,000.
    """

    is_endless = True

    def __init__(self, sources: list[Source], weights: list[float], seed: int = 0) -> None:
        above(0, weights=weights)
        integer(0, seed=seed)
        if not sources or len(sources) != len(weights):
            raise ValueError(f"expected one weight for each source, got {len(weights)} for {len(sources)} sources")
        self.sources = sources
        self.weights = weights
        self.seed = seed
        bounds = np.rint(np.cumsum(weights) / np.sum(weights) * _PERIOD).astype(int)
        self._shares = np.diff(bounds, prepend=0)
        if self._shares.min() == 0:
            raise ValueError(f"weights {weights} leave a source less than 1 in {_PERIOD} samples: leave it out")

    def __iter__(self) -> Iterator[Any]:
        raise ValueError("a mixture has no end: it is for training alone; name one of its sources here")

    def iterate_from(self, start: int, part: int, num_parts: int) -> Iterator[tuple[int, int, Any]]:
        """See `streaming.parts_of`. Epochs are those of the sources; indices are made unique over them."""
        number = len(self.sources)
        period = np.repeat(np.arange(number), self._shares)
        period = random_stream("mixture", self.seed, part).permutation(period)
        periods, done = divmod(start, _PERIOD)
        drawn = periods * self._shares + np.bincount(period[:done], minlength=number)
        streams = [self._from_one(which, int(count), part, num_parts) for which, count in enumerate(drawn)]
        for position in itertools.count(done):
            which = int(period[position % _PERIOD])
            epoch, index, item = next(streams[which])
            yield epoch, index * number + which, item

    def identity(self) -> dict[str, str]:
        """Identity that a continued training compares: those of the sources, and how they are mixed."""
        facts = [source.identity() if hasattr(source, "identity") else {} for source in self.sources]
        return {"mixture": sha256(repr([facts, self._shares.tolist(), self.seed]).encode())}

    def _from_one(self, which: int, start: int, part: int, num_parts: int) -> Iterator[tuple[int, int, Any]]:
        source = self.sources[which]
        if is_stream(source):
            yield from parts_of(source, start, part, num_parts)
            return
        read = getattr(source, "__getitem__", None) or source.read
        length = len(range(part, len(source), num_parts))
        check_part(length == 0, source, part, num_parts)
        epochs, done = divmod(start, length)
        for epoch in itertools.count(epochs):
            order = random_stream("shuffle", self.seed, which, epoch).permutation(len(source))[part::num_parts]
            for index in order[done:]:
                yield epoch, int(index), partial(read, int(index))
            done = 0
