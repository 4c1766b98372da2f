"""Sizes of images as people write them (256, "128x256", [128, 256]) and as code has them: (height, width)."""

from collections.abc import Sequence

ImageSize = tuple[int, int]  # (height, width)


def parse(text: str) -> ImageSize:
    """(height, width) of "256" or "128x256".

    Raises:
        ValueError: for anything else.
    """
    return from_plain([int(side) if side.strip().isdecimal() else 0 for side in text.lower().split("x")])


def from_plain(value: int | Sequence[int]) -> ImageSize:
    """(height, width) of one side, of [side] or of [height, width].

    Raises:
        ValueError: for another number of sides, or a side below 1.
    """
    sides = [value] if isinstance(value, int) else list(value)
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"an image size is a side, or height x width, e.g. 256 or 128x256; got {value!r}")
    return sides[0], sides[-1]


def to_plain(size: ImageSize | None) -> int | list[int] | None:
    """One side of a square, else [height, width]; None stays None."""
    if size is None:
        return None
    return size[0] if size[0] == size[1] else list(size)


def text(size: Sequence[int]) -> str:
    """A size or a shape in words: "128 x 256"."""
    return " x ".join(map(str, size))
