"""Ranges of numeric arguments."""

import math

import numpy as np
import pytest

from open_magvit2.common.arguments import above, at_least, finite, integer, within


def test_valid_values_pass():
    at_least(1, channels=1, channel_multipliers=(1, 2))
    above(0, temperature=1e-9)
    integer(0, num_workers=0)
    integer(1, 36, num_bits=36, sizes=[1, np.int64(2)])
    finite(weight=-1.0)
    within(0, 1, decay=0.0)
    within(0, 1, include_high=True, share=1)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: at_least(1, channels=0), "channels must be at least 1, got 0"),
        (lambda: at_least(1, channels=4, multipliers=[1, 0]), r"multipliers must be at least 1, got \[1, 0\]"),
        (lambda: at_least(1, multipliers=[]), r"multipliers must be at least 1, got \[\]"),
        (lambda: at_least(1, size=None), "size must be at least 1, got None"),
        (lambda: at_least(1, size="8"), "size must be at least 1, got '8'"),
        (lambda: at_least(0, weight=math.nan), "weight must be at least 0, got nan"),
        (lambda: integer(0, num_workers=1.5), "num_workers must be an integer, got 1.5"),
        (lambda: integer(0, sizes=[1, 2.0]), r"sizes must be an integer, got \[1, 2.0\]"),
        (lambda: integer(1, num_workers=0), "num_workers must be at least 1, got 0"),
        (lambda: integer(1, 36, num_bits=37), r"num_bits must be in \[1, 36\], got 37"),
        (lambda: integer(0, is_on=True), "is_on must be at least 0, got True"),
        (lambda: at_least(0, weight=math.inf), "weight must be finite, got inf"),
        (lambda: finite(weight=math.nan), "weight must be a number, got nan"),
        (lambda: above(0, temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: within(0, 1, decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: within(0, 1, True, share=1.5), r"share must be in \[0, 1\], got 1.5"),
    ],
)
def test_others_are_named_with_value_and_range(check, message):
    with pytest.raises(ValueError, match=message):
        check()
