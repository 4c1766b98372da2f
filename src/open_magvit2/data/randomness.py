"""Named random streams: a generator that depends on a purpose and a few whole numbers, and on nothing else."""

import zlib

import numpy as np


def random_stream(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator seeded by `purpose` and `numbers`, e.g. `random_stream("shuffle", seed, epoch)`.

    No state is carried from call to call, so what is drawn never depends on workers, ranks, order or resumption.
    The purpose keeps streams with equal numbers apart: the crop of image 0 shares nothing with the shuffle of epoch 0.

    Raises:
        ValueError: if a number is negative.
    """
    if any(number < 0 for number in numbers):
        raise ValueError(f"random_stream expects numbers >= 0 (seed, epoch, index, ...), got {numbers}")
    return np.random.default_rng((zlib.crc32(purpose.encode()), *numbers))


class RandomStreams:
    """One stream for every index, six times quicker to get than `random_stream`: a cached image takes as long.

    Stream `index` is the generator of (purpose, numbers) jumped ahead `index` times, as `numpy.random.PCG64.jumped`
    does: a stride of the golden ratio of the period, so that streams neither overlap nor resemble each other.
    """

    _STRIDE = 0x9E3779B97F4A7C15F39CC0605CEDC835  # of numpy's `jumped`

    def __init__(self, purpose: str, *numbers: int) -> None:
        self._generator = random_stream(purpose, *numbers)
        self._start = self._generator.bit_generator.state

    def at(self, index: int) -> np.random.Generator:
        """The generator of an index >= 0, at its beginning; the same object every time, so use it before the next."""
        self._generator.bit_generator.state = self._start
        self._generator.bit_generator.advance(index * self._STRIDE)
        return self._generator
