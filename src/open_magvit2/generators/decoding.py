"""From a generator's indices to pixels, by a tokenizer that fits it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common.arguments import integer
from open_magvit2.common.images import to_uint8
from open_magvit2.common.precision import inference
from open_magvit2.protocols import Generator, Tokenizer


def image_size(generator: Generator, tokenizer: Tokenizer) -> tuple[int, ...]:
    """(H, W) of the images that a tokenizer makes of a generator's indices.

    Raises:
        ValueError: for a tokenizer of another codebook or grid, naming both sides.
    """
    if tokenizer.codebook_size != generator.codebook_size:
        raise ValueError(
            f"the generator makes indices of a codebook of {generator.codebook_size} codes, the tokenizer has "
            f"{tokenizer.codebook_size}: take the tokenizer that the generator was trained with"
        )
    rule, grid = tokenizer.size_rule, tuple(generator.grid)
    size = rule.fixed or tuple(
        offset + side * multiple
        for offset, side, multiple in zip(rule.offset or (0,) * len(grid), grid, rule.multiple, strict=False)
    )
    try:
        shape = tuple(tokenizer.token_shape(size))
    except ValueError as error:
        raise ValueError(f"the generator has a grid {grid}, the tokenizer takes {rule}: {error}") from error
    if shape != grid:
        raise ValueError(f"the generator has a grid {grid}, the tokenizer makes {shape} of images {size}")
    return size


def generate_images(
    generator: Generator,
    tokenizer: Tokenizer,
    labels: Tensor,
    seeds: Sequence[int],
    settings: Any,
    device: torch.device,
) -> Tensor:
    """Images uint8 [B, 3, H, W], on the device, of labels int64 [B] and a seed each; rounded, not truncated.

    The generator runs in the precision of its weights, the tokenizer in full float32.
    """
    with inference(device):
        return to_uint8(tokenizer.detokenize(generator.generate(labels, seeds, settings)))


def image_seed(seed: int, number: int) -> int:
    """The seed of image `number` of a run with a seed.

    Raises:
        ValueError: for a negative seed.
    """
    integer(0, seed=seed)
    return (seed << 32) + number
