"""Named random streams: a generator that depends on a purpose and a few whole numbers, and on nothing else."""

import zlib

import numpy as np


def random_stream(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator seeded by `purpose` and `numbers`, e.g. `random_stream("transform", seed, epoch, index)`.

    No state is carried from call to call, so what is drawn never depends on workers, ranks, order or resumption.
    The purpose keeps streams with equal numbers apart: the crop of image 0 shares nothing with the shuffle of epoch 0.

    Raises:
        ValueError: if a number is negative.
    """
    if any(number < 0 for number in numbers):
        raise ValueError(f"random_stream expects numbers >= 0 (seed, epoch, index, ...), got {numbers}")
    return np.random.default_rng((zlib.crc32(purpose.encode()), *numbers))
