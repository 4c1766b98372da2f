"""Value ranges: every 8-bit value there and back, and grids."""

import numpy as np
import pytest
import torch

from open_magvit2.common.images import grid, to_float, to_uint8, to_uint8_truncated

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_to_float_is_correctly_rounded_for_every_level():
    expected = (np.arange(256) / 127.5 - 1.0).astype(np.float32)  # float64 arithmetic, as the reference does it
    assert np.array_equal(to_float(LEVELS).numpy(), expected)


def test_rounding_returns_every_level_and_truncation_loses_95():
    assert torch.equal(to_uint8(to_float(LEVELS)), LEVELS)
    lost = LEVELS.int() - to_uint8_truncated(to_float(LEVELS)).int()
    assert set(lost.unique().tolist()) == {0, 1}
    assert lost.sum().item() == 95


def test_values_outside_the_range_are_clamped():
    values = torch.tensor([-3.0, -1.0, 1.0, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 255, 255]
    assert to_uint8_truncated(values).tolist() == [0, 0, 255, 255]


def test_grid_places_rows_and_columns():
    rows = [torch.full((3, 3, 4, 5), value, dtype=torch.uint8) for value in (10, 20)]
    picture = grid(rows, padding=2)
    assert picture.shape == (3, 2 * 6 + 2, 3 * 7 + 2)
    assert picture[:, 2, 2].tolist() == [10] * 3
    assert picture[:, 8, 9].tolist() == [20] * 3
    assert picture[:, 0, 0].tolist() == [255] * 3


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (to_float, torch.zeros(3), "expects uint8"),
        (to_uint8, LEVELS, "expects a float image"),
        (to_uint8_truncated, LEVELS, "expects a float image"),
        (grid, [torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, 3, 2, 3, dtype=torch.uint8)], "one shape"),
    ],
)
def test_wrong_ranges_are_refused(function, argument, message):
    with pytest.raises(ValueError, match=message):
        function(argument)
