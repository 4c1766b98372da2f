"""Images as users hold them (uint8 tensors, PIL images, lists of them) as the float batch a tokenizer takes."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open_magvit2.common.images import to_float

Images = Tensor | Image.Image | Sequence[Tensor | Image.Image]
_PIL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_TOLERANCE = 0.05  # resampling overshoots a little


def as_batch(image: Tensor | Image.Image, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """A float batch [B, 3, H, W] in [-1, 1].

    Args:
        image: uint8 [B, 3, H, W]; float [B, 3, H, W] in `value_range`; or a PIL image, which is a batch of one.
        value_range: lowest and highest value of a float image. On the CPU the values are compared with it.

    Raises:
        ValueError: for other types and shapes, values outside the range, or a range that is none.
    """
    low, high = _checked(value_range)
    if isinstance(image, Image.Image):
        if image.mode not in _PIL_MODES:
            raise ValueError(
                f"expected a PIL image of 8 bits a channel, got mode {image.mode}: scale its values to 0 .. 255, then "
                "convert it to RGB"
            )
        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
        return to_float(pixels.permute(2, 0, 1)[None].contiguous())
    if not isinstance(image, Tensor):
        raise ValueError(f"expected a tensor, a PIL image or a list of them, got {type(image).__name__}")
    if image.dtype == torch.uint8:
        return to_float(image)
    if not image.is_floating_point():
        raise ValueError(f"expected uint8 or float pixels, got {image.dtype}")
    if image.device.type == "cpu" and image.numel():
        _check_values(*(bound.item() for bound in image.aminmax()), low, high)
    return image if (low, high) == (-1.0, 1.0) else (image - low) * (2.0 / (high - low)) - 1.0


def for_each_size(images: Sequence[Tensor | Image.Image], call: Callable[[Tensor], Any], **options: Any) -> list[Any]:
    """Call a function of a float batch on images of any sizes, those of the same size together.

    Args:
        images: PIL images, or tensors [3, H, W].
        call: of a batch [B, 3, H, W] in [-1, 1]; returns a tensor with a leading B, or a tuple of them.
        options: of `as_batch`.

    Returns:
        call's result for each image, in order, without the leading axis.
    """
    batches = [as_batch(image[None] if isinstance(image, Tensor) else image, **options) for image in images]
    positions: dict[tuple[int, ...], list[int]] = {}
    for position, batch in enumerate(batches):
        positions.setdefault(tuple(batch.shape), []).append(position)
    results: list[Any] = [None] * len(batches)
    for chosen in positions.values():
        result = call(torch.cat([batches[position] for position in chosen]))
        rows = zip(*result, strict=True) if isinstance(result, tuple) else result
        for position, row in zip(chosen, rows, strict=True):
            results[position] = row
    return results


def _checked(value_range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(
            f"value_range must be the lowest and the highest value of a float image, such as (0, 1) or (0, 255), got "
            f"{value_range!r}"
        )
    return low, high


def _check_values(lowest: float, highest: float, low: float, high: float) -> None:
    margin = _TOLERANCE * (high - low)
    if not (lowest >= low - margin and highest <= high + margin):
        raise ValueError(
            f"expected float values in [{low:g}, {high:g}], got [{lowest:g}, {highest:g}]: pass uint8 pixels, or say "
            "value_range=(0, 1) or (0, 255)"
        )
    if low < 0 <= lowest and highest <= 1 and highest > lowest:
        warnings.warn(
            f"all values lie in [{lowest:g}, {highest:g}]: if these are images in [0, 1], say value_range=(0, 1)",
            stacklevel=2,
        )
