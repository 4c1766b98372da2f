"""Find the tensors in a checkpoint as users have them: in whatever container, under wrapped names."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

# Where programs put the weights: Lightning and most others; timm and DeiT; DeepSpeed and FSDP.
CONTAINERS = ("state_dict", "model", "module")
# DistributedDataParallel, torch.compile and DeepSpeed wrap a module and put a part into its names, at any depth.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_forward_module)\.")
# The reference's moving averages have names without dots, so that torch.compile's part has none either.
_AVERAGE_WRAPPER = re.compile(r"^model_ema\._orig_mod")


def find_state_dict(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The named tensors of a checkpoint's content: under one of `CONTAINERS`, or the content itself.

    Args:
        content: of a file, as `checkpoints.read` gives it.
        source: the file, for the error.

    Raises:
        ValueError: if there are none; it says what the file holds instead.
    """
    for key in CONTAINERS:
        if key in content:
            state = content[key]
            if not isinstance(state, Mapping):
                raise ValueError(f"{source}: {key!r} is a {type(state).__name__}, expected a dictionary of tensors")
            break
    else:
        state = content
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if not state or len(others) == len(state):
        raise ValueError(
            f"{source} holds no dictionary of tensors: it has {_listed(state)}; expected one under "
            f"{', '.join(CONTAINERS)}, or tensors alone"
        )
    if nameless := [name for name in state if not isinstance(name, str)]:
        raise ValueError(f"{source}: tensors need names, got {nameless[0]!r} ({len(nameless)} such entries)")
    if others:
        kind = type(state[others[0]]).__name__
        raise ValueError(f"{source}: {others[0]!r} is a {kind}, expected a tensor ({len(others)} such entries)")
    return dict(state)


def without_wrappers(state: Mapping[str, Tensor], names: Iterable[str] = ()) -> tuple[dict[str, Tensor], int]:
    """The tensors under their own names, without `module.`, `_orig_mod.` and `_forward_module.`.

    Args:
        state: of a file.
        names: those that are wanted, if they are known: a state dict that has all of them is not wrapped, whatever a
            class calls its parts.

    Returns:
        (tensors, number of names that had such a part).

    Raises:
        ValueError: if two names become one.
    """
    if (wanted := set(names)) and wanted <= state.keys():
        return dict(state), 0
    renamed = {name: _AVERAGE_WRAPPER.sub("model_ema.", _WRAPPER.sub("", name)) for name in state}
    twice = [name for name, number in Counter(renamed.values()).items() if number > 1]
    if twice:
        raise ValueError(
            f"the file holds tensors twice, with and without 'module.', '_orig_mod.' or '_forward_module.': {twice[:5]}"
        )
    num_wrapped = sum(name != own for name, own in renamed.items())
    return {own: state[name] for name, own in renamed.items()}, num_wrapped


def count_by_part(names: Iterable[str]) -> dict[str, int]:
    """Number of names by their first part: {"discriminator": 30, "loss": 12}."""
    return dict(sorted(Counter(name.split(".", 1)[0] for name in names).items()))


def _listed(content: Mapping[str, Any]) -> str:
    names = [f"{name} ({type(value).__name__})" for name, value in list(content.items())[:8]]
    return ", ".join(names) + (", ..." if len(content) > 8 else "") or "nothing"
