"""The families of tokenizers that can be evaluated: `tokenizers/<family>.py`, selected by `--tokenizer <family>`.

Such a module defines `load(checkpoint, ...) -> Tokenizer` (`open_magvit2.protocols.Tokenizer`): in evaluation mode.
Of the options weights, device and allowed_modules it gets those that it declares. A family outside this package is
named by the path of its module: `--tokenizer my_project.my_tokenizer`.
"""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from open_magvit2.protocols import Tokenizer


def available() -> list[str]:
    """The names of the families in this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def family_module(family: str) -> ModuleType:
    """The module of a family; a ValueError if there is none, or it has no `load`."""
    if family not in available() and "." not in family:
        raise ValueError(f"no tokenizer family is called {family!r}; available: {', '.join(available())}")
    try:
        module = importlib.import_module(family if "." in family else f"{__name__}.{family}")
    except ImportError as error:
        raise ValueError(f"cannot import the tokenizer family {family}: {error}") from error
    if not callable(getattr(module, "load", None)):
        raise ValueError(f"the tokenizer family {family} has no function load(checkpoint, ...)")
    return module


def load(family: str, checkpoint: str | Path, device: str | torch.device = "cpu", **options: Any) -> Tokenizer:
    """Load a tokenizer onto a device; the family's `load` gets those of the options that it declares.

    Raises:
        ValueError: for a family without a module, or a tokenizer that does not fulfil the protocol.
    """
    function = family_module(family).load
    parameters = inspect.signature(function).parameters
    given = {name: value for name, value in {**options, "device": device}.items() if name in parameters}
    tokenizer = function(checkpoint, **given)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{family}.load gave a {type(tokenizer).__name__}, which does not fulfil protocols.Tokenizer")
    return tokenizer.to(device) if "device" not in given and isinstance(tokenizer, torch.nn.Module) else tokenizer
