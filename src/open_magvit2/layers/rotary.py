"""Axial rotary position embedding on a grid of any number of axes (RoFormer, arXiv 2104.09864, one part an axis)."""

from collections.abc import Sequence

import torch
from torch import Tensor

BASE = 10_000.0


def axial_rotary_table(grid: Sequence[int], head_width: int, base: float = BASE) -> Tensor:
    """(cos, sin) of the rotation of every pair of channels at every cell of a grid, in raster order.

    The pairs of a head are shared equally among the axes, first axis first. With Q pairs an axis, pair j of an axis
    turns by coordinate * base^(-j / Q).

    Args:
        grid: sizes of the axes, e.g. (rows, columns).
        head_width: channels of a head; a multiple of twice the number of axes.
        base: of the frequencies.

    Returns:
        float64 [cells, head_width / 2, 2].

    Raises:
        ValueError: if the pairs cannot be shared equally.
    """
    pairs, rest = divmod(head_width, 2 * len(grid))
    if rest or pairs == 0:
        raise ValueError(f"head width {head_width} is no multiple of {2 * len(grid)}, twice the {len(grid)} axes")
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    axes = [torch.arange(size, dtype=torch.float64) for size in grid]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)  # [cells, axes]
    angles = (cells[:, :, None] * frequencies).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(features: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        features: float [..., positions, head_width]; the rotation is computed in float32 at least.
        table: float [positions, head_width / 2, 2], or broadcastable to it.

    Returns:
        of the features' shape and dtype.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    pairs, table = features.to(dtype).unflatten(-1, (-1, 2)), table.to(dtype)
    if torch.compiler.is_compiling():  # it fuses real operations, not complex ones
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)
    else:  # the same as a product of complex numbers, in one pass
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    return turned.flatten(-2).to(features.dtype)
