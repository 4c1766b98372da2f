"""Sizes of images: (height, width) in code, a side or [height, width] in files, "128 x 256" in words."""

from collections.abc import Sequence

from open_magvit2.common.arguments import integer

ImageSize = tuple[int, int]  # (height, width)


def from_plain(value: int | Sequence[int]) -> ImageSize:
    """(height, width) of a side, [side] or [height, width]; a ValueError for more sides, or a side below 1."""
    integer(1, image_size=value)
    sides = [value] if isinstance(value, int) else list(value)
    if len(sides) > 2:
        raise ValueError(f"image_size must be a side, or height and width, got {value!r}")
    return sides[0], sides[-1]


def to_plain(size: ImageSize | None) -> int | list[int] | None:
    """One side of a square, else [height, width]; None stays None."""
    return size if size is None else size[0] if size[0] == size[1] else list(size)


def text(size: Sequence[int]) -> str:
    """A size or a shape in words: "128 x 256"."""
    return " x ".join(map(str, size))
