"""Random streams against numpy's own jumping ahead."""

import numpy as np
import pytest

from open_magvit2.data.order import RandomStreams, random_stream


@pytest.mark.parametrize("index", [0, 1, 5, 2**40])
def test_streams_are_numpys_jumped_generators_in_any_order(index):
    streams = RandomStreams("test", 3, 7)
    streams.at(2).integers(10, size=3)  # what was drawn before does not matter
    expected = np.random.Generator(random_stream("test", 3, 7).bit_generator.jumped(index))
    np.testing.assert_array_equal(streams.at(index).integers(1000, size=20), expected.integers(1000, size=20))


def test_neighbouring_streams_are_independent():
    streams = RandomStreams("test", 0)
    drawn = np.array([streams.at(index).random(2) for index in range(4000)])
    assert abs(drawn.mean() - 0.5) < 0.02
    following = np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]
    within = np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]
    assert max(abs(following), abs(within)) < 0.06  # 4 standard errors
