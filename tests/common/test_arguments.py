"""Ranges of numeric arguments."""

import math

import pytest

from open_magvit2.common.arguments import above, at_least, within


def test_valid_values_pass():
    at_least(1, channels=1, channel_multipliers=(1, 2))
    above(0, temperature=1e-9)
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
        (lambda: above(0, temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: within(0, 1, decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: within(0, 1, True, share=1.5), r"share must be in \[0, 1\], got 1.5"),
    ],
)
def test_others_are_named_with_value_and_range(check, message):
    with pytest.raises(ValueError, match=message):
        check()
