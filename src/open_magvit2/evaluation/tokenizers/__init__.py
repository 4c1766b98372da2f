"""The tokenizers that can be evaluated: `tokenizers/<family>.py` is selected by `--tokenizer <family>`.

Such a module defines `load(checkpoint, **options) -> Tokenizer` (`open_magvit2.protocols.Tokenizer`): in evaluation
mode, on the CPU. That is the whole convention.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from open_magvit2.protocols import Tokenizer


def available() -> list[str]:
    """The names of the families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(family: str, checkpoint: str | Path, **options: Any) -> Tokenizer:
    """Load a tokenizer of a family.

    Raises:
        ValueError: for a family without a module, or a tokenizer that does not fulfil the protocol.
    """
    if family not in available():
        raise ValueError(f"no tokenizer family is called {family!r}; available: {', '.join(available())}")
    tokenizer = importlib.import_module(f"{__name__}.{family}").load(checkpoint, **options)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{family}.load gave a {type(tokenizer).__name__}, which does not fulfil protocols.Tokenizer")
    return tokenizer
