"""Checks of a checkpoint's content: untrained weights, and moving averages that were never filled.

Strict loading catches wrong names, shapes and types. These checks catch right names with the wrong content, which would
give figures that look like any other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

TAKE_RAW = "load it with weights='raw', in a command --weights raw"


class NoAveragesError(ValueError):
    """EMA weights were asked for of a file that has none."""


def look_untrained(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every normalisation still has its initial weight, exactly 1; a single step of training moves them all."""
    weights = [value for name, value in tensors.items() if name.endswith(".weight") and value.ndim == 1]
    return bool(weights) and all(bool((value == 1).all()) for value in weights)


def check_averages(
    averaged: Mapping[str, Tensor], raw: Mapping[str, Tensor], num_updates: int | None, source: str
) -> list[str]:
    """Compare EMA weights with the raw ones of the same file.

    Args:
        averaged, raw: tensors of the same names.
        num_updates: how often the averages were updated, where the file says so.
        source: of the weights, for the error.

    Returns:
        warnings: sentences a reader of the figures must know.

    Raises:
        ValueError: if the averages were never filled: they are the weights before training.
    """
    if num_updates == 0 or (look_untrained(averaged) and not look_untrained(raw)):
        raise ValueError(
            f"the EMA weights of {source} were never filled: they are those before training, though the raw ones "
            f"are not; {TAKE_RAW}"
        )
    if all(torch.equal(value, raw[name]) for name, value in averaged.items() if name in raw):
        return ["the EMA weights equal the raw ones: the averages were copied, or never moved"]
    return []
