"""The families of tokenizers that can be evaluated: `tokenizers/<family>.py`, recognised or named by `--tokenizer`.

Such a module either describes the published files of a family (`_recognition` says how), or defines
`load(checkpoint, ...) -> Tokenizer` (`open_magvit2.protocols.Tokenizer`): in evaluation mode. Of the options weights,
device and allowed_modules that function gets those that it declares. A family outside this package is named by the path
of its module: `--tokenizer my_project.my_tokenizer`.
"""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from open_magvit2.common import checkpoints
from open_magvit2.evaluation.tokenizers import _recognition
from open_magvit2.evaluation.tokenizers._from_file import PretrainedTokenizer, which_weights
from open_magvit2.evaluation.tokenizers._recognition import load_tokenizer
from open_magvit2.protocols import Tokenizer

__all__ = ["PretrainedTokenizer", "available", "family_module", "load", "load_tokenizer", "which_weights"]


def available() -> list[str]:
    """The names of the families in this package."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def family_module(family: str) -> ModuleType:
    """The module of a family; a ValueError if there is none, or it can load nothing."""
    if family not in available() and "." not in family:
        known = ", ".join(available())
        raise ValueError(
            f"no tokenizer family is called {family!r}; available: {known}, or the path of a module in a package of "
            "yours, as my_project.my_tokenizer"
        )
    try:
        module = importlib.import_module(family if "." in family else f"{__name__}.{family}")
    except ImportError as error:
        raise ValueError(f"cannot import the tokenizer family {family}: {error}") from error
    if not any(callable(getattr(module, name, None)) for name in ("load", "read_architecture")):
        raise ValueError(f"the tokenizer family {family} has no function load(checkpoint, ...)")
    return module


def load(family: str | None, checkpoint: str | Path, device: str | torch.device = "cpu", **options: Any) -> Tokenizer:
    """Load a tokenizer of a family onto a device; a `load` of the family gets those of the options that it declares.

    Args:
        family: a name or the path of a module; None recognises it, see `load_tokenizer`.
        checkpoint: the file.
        device: where to put the model.
        **options: of `load_tokenizer`.

    Raises:
        ValueError: for a family without a module, a file that is not the family's, or a tokenizer that does not fulfil
            the protocol.
    """
    if family is None:
        return load_tokenizer(checkpoint, device=device, **options)
    module = family_module(family)
    if not hasattr(module, "load"):
        weights = options.get("weights", "ema")
        return _recognition.load(module, checkpoints.read(checkpoint), checkpoint, weights, device)
    parameters = inspect.signature(module.load).parameters
    given = {name: value for name, value in {**options, "device": device}.items() if name in parameters}
    tokenizer = module.load(checkpoint, **given)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{family}.load gave a {type(tokenizer).__name__}, which does not fulfil protocols.Tokenizer")
    return tokenizer.to(device) if "device" not in given and isinstance(tokenizer, torch.nn.Module) else tokenizer
