"""Valid ranges of numeric arguments, checked and reported in one way.

    at_least(1, channels=channels, channel_multipliers=channel_multipliers)
    above(0, temperature=temperature)
    within(0, 1, decay=decay)

A value may be a number or a sequence of numbers, which must then all be valid. NaN is never valid, nor is None: where
None has a meaning, the caller checks for it first.
"""

from collections.abc import Callable, Sequence
from typing import Any


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


def _check(arguments: dict[str, Any], is_valid: Callable[[float], bool], expected: str) -> None:
    for name, value in arguments.items():
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        are_numbers = bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        if not are_numbers or not all(map(is_valid, values)):
            raise ValueError(f"{name} must be {expected}, got {value!r}")
