"""What a checkpoint's tensors tell of themselves: wrapped names, averages that were never filled, untrained weights.

A mismatched file that loads gives figures that look like figures. Strict loading catches wrong names and shapes; these
checks catch right names with the wrong content.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# DistributedDataParallel and torch.compile wrap a module, anywhere in a name.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")


def without_wrappers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The tensors under their own names, without `module.` (DDP) and `_orig_mod.` (torch.compile).

    Returns:
        (tensors, how many names had such a part).

    Raises:
        ValueError: if two names become one.
    """
    renamed = {name: _WRAPPER.sub("", name) for name in state}
    twice = [name for name, number in Counter(renamed.values()).items() if number > 1]
    if twice:
        raise ValueError(f"the file holds tensors twice, with and without 'module.' or '_orig_mod.': {twice[:5]}")
    wrapped = sum(name != own for name, own in renamed.items())
    return {own: state[name] for name, own in renamed.items()}, wrapped


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
            "are not. Load it with weights='raw'"
        )
    if all(torch.equal(value, raw[name]) for name, value in averaged.items() if name in raw):
        return ["the EMA weights equal the raw ones: the averages were copied, or never moved"]
    return []


def count_by_part(names: Iterable[str]) -> dict[str, int]:
    """How many names begin with which part: {"discriminator": 30, "loss": 12}."""
    return dict(sorted(Counter(name.split(".", 1)[0] for name in names).items()))
