"""Valid ranges of numeric arguments, checked and reported in one way.

    integer(1, channels=channels, channel_multipliers=channel_multipliers)
    at_least(0, weight=weight)
    above(0, temperature=temperature)
    within(0, 1, decay=decay)

A value may be a number or a sequence of numbers, which must then all be valid. NaN and infinity are never valid, nor is
None: where None has a meaning, the caller checks for it first.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any


def integer(minimum: int, maximum: int | None = None, **arguments: int | Sequence[int]) -> None:
    """Refuse fractions, 2.0 included, and integers below a minimum or above a maximum.

    Raises:
        ValueError: with the argument's name, its value and the range.
    """
    for name, value in arguments.items():
        if any(isinstance(v, Real) and not isinstance(v, Integral) for v in _values(value)):
            raise ValueError(f"{name} must be an integer, got {value!r}")
    if maximum is None:
        at_least(minimum, **arguments)
    else:
        within(minimum, maximum, include_high=True, **arguments)


def at_least(minimum: float, **arguments: float | Sequence[float]) -> None:
    """Refuse values below a minimum.

    Raises:
        ValueError: with the argument's name, its value and the range.
    """
    _check(arguments, lambda value: value >= minimum, f"at least {minimum}")


def above(minimum: float, **arguments: float | Sequence[float]) -> None:
    """Refuse values that are not above a minimum.

    Raises:
        ValueError: with the argument's name, its value and the range.
    """
    _check(arguments, lambda value: value > minimum, f"above {minimum}")


def within(low: float, high: float, include_high: bool = False, **arguments: float | Sequence[float]) -> None:
    """Refuse values outside [low, high), or outside [low, high].

    Raises:
        ValueError: with the argument's name, its value and the range.
    """
    text = f"in [{low}, {high}{']' if include_high else ')'}"
    _check(arguments, lambda value: low <= value < high or (include_high and value == high), text)


def finite(**arguments: float | Sequence[float]) -> None:
    """Refuse NaN and infinity alone.

    Raises:
        ValueError: with the argument's name and its value.
    """
    _check(arguments, lambda _: True, "a number")


def _check(arguments: dict[str, Any], is_valid: Callable[[float], bool], expected: str) -> None:
    for name, value in arguments.items():
        values = _values(value)
        are_numbers = bool(values) and all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
        if are_numbers and any(map(math.isinf, values)):
            raise ValueError(f"{name} must be finite, got {value!r}")
        if not are_numbers or any(map(math.isnan, values)) or not all(map(is_valid, values)):
            raise ValueError(f"{name} must be {expected}, got {value!r}")


def _values(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
