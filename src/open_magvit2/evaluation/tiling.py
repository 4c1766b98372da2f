"""One image of any size through a tokenizer: whole, or in overlapping tiles where it is too large for memory.

Group norms take their statistics over everything the network sees: a tile is not reconstructed as the same pixels are
within the whole image, for any overlap. Blending hides the steps between tiles; `measure_seams` measures their cost.
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from open_magvit2.common import images
from open_magvit2.common.precision import float32
from open_magvit2.evaluation.metrics.psnr import decibels
from open_magvit2.protocols import Tokenizer


class Reconstruction(NamedTuple):
    """One image after a tokenizer."""

    pixels: Tensor  # uint8 [3, H, W] on the CPU, of the original's size
    num_tokens: int  # of all tiles, with padding and overlaps


class SeamError(NamedTuple):
    """PSNR in dB of a reconstruction in tiles against the whole one; infinite where they are equal."""

    everywhere: float
    near: float  # near seams: where tiles are blended, and one token around
    elsewhere: float  # where one tile alone counts; nan if there is no such pixel

    def __str__(self) -> str:
        everywhere, near, elsewhere = (f"{psnr:.2f} dB" for psnr in self)
        return f"tiles against whole {everywhere} (near seams {near}, elsewhere {elsewhere})"


@torch.inference_mode()
def reconstruct(
    tokenizer: Tokenizer,
    pixels: Tensor,
    tile: int | None = None,
    overlap: int | None = None,
    device: torch.device | str = "cpu",
) -> Reconstruction:
    """Reconstruct one image of any size, whole or in overlapping tiles blended by linear ramps.

    A size that the tokenizer does not take is padded at the bottom and right by repeating the border, and cropped
    again. Tiles begin on the grid of the whole image's tokens; an image that fits one tile is not split. Besides the
    8-bit pixels of the image and the result, memory holds one tile in the tokenizer and one row of tiles as float.

    Args:
        tokenizer: on `device`.
        pixels: uint8 [3, H, W].
        tile: side of the square tiles in whole tokens; None: the whole image at once.
        overlap: of neighbouring tiles at least, in whole tokens; a quarter of the tile by default.
        device: where the tokenizer runs.

    Raises:
        ValueError: for pixels of another form, for what `check_tiles` refuses, and for an image larger than the
            fixed size of a tokenizer.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != torch.uint8 or not pixels.numel():
        raise ValueError(f"expected one image uint8 [3, H, W], got {pixels.dtype} {tuple(pixels.shape)}")
    device = torch.device(device)
    rows, columns = _tiles(tokenizer, pixels, tile, overlap)
    height, width = pixels.shape[1:]
    result = torch.empty(pixels.shape, dtype=torch.uint8)
    band = torch.zeros(3, rows.tile, width)  # the sum so far in the rows of pixels that more tiles will reach
    num_tokens = 0
    for top, bottom, row in zip(rows.starts, [*rows.starts[1:], height], rows.weights, strict=True):
        for left, column in zip(columns.starts, columns.weights, strict=True):
            part = pixels[:, top : top + rows.tile, left : left + columns.tile]
            high, wide = part.shape[1:]
            padded = tokenizer.size_rule.padded((high, wide))
            margins = (0, padded[1] - wide, 0, padded[0] - high)
            image = F.pad(images.to_float(part.to(device))[None], margins, mode="replicate")
            with float32(device.type):
                output, indices = tokenizer.reconstruct(image)
            piece = output[0, :, :high, :wide].to("cpu", torch.float32)
            band[:, :high, left : left + wide] += piece * (row[:high, None] * column[:wide])
            num_tokens += 0 if indices is None else indices.numel()
        result[:, top:bottom] = images.to_uint8(band[:, : bottom - top])
        band = torch.cat([band[:, bottom - top :], torch.zeros(3, bottom - top, width)], dim=1)
    return Reconstruction(result, num_tokens)


def measure_seams(
    tokenizer: Tokenizer, pixels: Tensor, tile: int, overlap: int | None = None, device: torch.device | str = "cpu"
) -> SeamError | None:
    """Compare both ways to `reconstruct` an image that fits memory; None if it fits one tile and has no seams."""
    near = seams(tokenizer, pixels, tile, overlap)
    if not near.any():
        return None
    whole = reconstruct(tokenizer, pixels, device=device).pixels
    tiled = reconstruct(tokenizer, pixels, tile, overlap, device).pixels
    errors = (whole.to(torch.float64) - tiled).square()
    return SeamError(*(decibels(part.mean()).item() for part in (errors, errors[:, near], errors[:, ~near])))


def seams(tokenizer: Tokenizer, pixels: Tensor, tile: int, overlap: int | None = None) -> Tensor:
    """Which pixels lie near a seam: blended of several tiles, or within one token of such; bool [H, W]."""
    near = [torch.zeros(length, dtype=torch.bool) for length in pixels.shape[1:]]
    axes = _tiles(tokenizer, pixels, tile, overlap)
    for along, axis, token in zip(near, axes, tokenizer.size_rule.multiple, strict=True):
        for previous, start in itertools.pairwise(axis.starts):
            along[start - token : previous + axis.tile + token] = True
    return near[0][:, None] | near[1][None, :]


class Axis(NamedTuple):
    """The tiles along one side of an image."""

    starts: list[int]  # ascending, in whole tokens
    tile: int  # length of every tile; the last may reach beyond the image, into its padding
    weights: Tensor  # float32 [tiles, tile] > 0, adding up to 1 at every pixel


def tiles_along(length: int, multiple: int, tile: int, overlap: int) -> Axis:
    """Spread as few tiles as cover `length` pixels evenly, each overlapping the next by at least `overlap`.

    A tile's weight rises linearly over all of its overlap with the one before and falls likewise towards the next;
    where three tiles overlap, weights are divided by their sum.
    """
    padded = math.ceil(length / multiple) * multiple
    if padded <= tile:
        return Axis([0], padded, torch.ones(1, padded))
    number = math.ceil((padded - overlap) / (tile - overlap))
    # In whole tokens, so that a tile's tokens are of the same pixels as the whole image's. Rounding down keeps the
    # overlap: it is a multiple of the token, and so no step gets longer than tile - overlap.
    num_steps = (padded - tile) // multiple
    starts = [i * num_steps // (number - 1) * multiple for i in range(number)]
    weights, total = torch.ones(number, tile), torch.zeros(padded)
    for i, (previous, start) in enumerate(itertools.pairwise(starts)):
        ramp = ((torch.arange(tile) + 0.5) / max(previous + tile - start, 1)).clamp(max=1.0)
        weights[i] *= ramp.flip(0)
        weights[i + 1] *= ramp
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start : start + tile]
    return Axis(starts, tile, weights)


def check_tiles(tokenizer: Tokenizer, tile: int, overlap: int | None = None) -> int:
    """The overlap to use: the one given, or a quarter of the tile in whole tokens.

    Raises:
        ValueError: for a tokenizer whose tokens are no grid that grows with the image, a tile or an overlap of no whole
            tokens, and an overlap that is negative or not smaller than the tile.
    """
    rule = tokenizer.size_rule
    tokens = tokenizer.token_shape(rule.padded((1,) * len(rule.multiple)))
    if rule.fixed is not None or any(rule.offset) or len(rule.multiple) != 2 or len(tokens) < 2:
        raise ValueError(
            "tiles need a tokenizer with a grid of tokens that grows with the image; this one takes sizes of "
            f"{rule} and gives {tokens} tokens: reconstruct whole images"
        )
    multiple = math.lcm(*rule.multiple)
    overlap = tile // 4 // multiple * multiple if overlap is None else overlap
    for name, value, least in (("tile", tile, multiple), ("overlap", overlap, 0)):
        if value % multiple or value < least:
            raise ValueError(
                f"{name} must be a multiple of {multiple}, the tokenizer's pixels per token, at least {least}, got "
                f"{value}: take {max(least, round(value / multiple) * multiple)}"
            )
    if overlap >= tile:
        raise ValueError(f"overlap must be smaller than tile, which is {tile}, got {overlap}: a quarter is usual")
    return overlap


def _tiles(tokenizer: Tokenizer, pixels: Tensor, tile: int | None, overlap: int | None) -> list[Axis]:
    """The tiles along the height and the width of an image."""
    rule, sides = tokenizer.size_rule, pixels.shape[1:]
    if tile is None:
        return [Axis([0], side, torch.ones(1, side)) for side in rule.padded(sides)]
    overlap = check_tiles(tokenizer, tile, overlap)
    return [tiles_along(side, multiple, tile, overlap) for side, multiple in zip(sides, rule.multiple, strict=True)]
