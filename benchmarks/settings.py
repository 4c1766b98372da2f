"""What a benchmark runs on and how thoroughly, and the form of its rows."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from open_magvit2.common.arguments import at_least

# One line of a table. "table" names it; the other keys are its columns, in order, with the unit in the name.
Row = dict[str, Any]

OUT_OF_MEMORY = "out of memory"
_MESSAGES = ("out of memory", "alloc_failed", "unable to find an engine")


@dataclass(frozen=True)
class Settings:
    """Shared by all sections.

    Attributes:
        device: to measure on.
        full: the sizes of the published recipe; otherwise small ones, minutes on two cores.
        repeats: measurements behind every median.
        models: names of the published models to measure at full size; None is all.
        batch: images of a training step; None: each section's own.
        tokens, bits: N and K of the section entropy, every one with every other; None: its own.
        images: folder of photos; None draws images by code.
        repository: the checkout whose scripts and configs are measured.

    Raises:
        ValueError: for numbers below 1, or if there is no such folder.
    """

    device: torch.device
    full: bool
    repeats: int = 5
    models: Sequence[str] | None = None
    batch: int | None = None
    tokens: Sequence[int] | None = None
    bits: Sequence[int] | None = None
    images: Path | None = None
    repository: Path = Path(__file__).resolve().parents[1]

    def __post_init__(self) -> None:
        numbers = {"repeats": self.repeats, "batch": self.batch, "tokens": self.tokens, "bits": self.bits}
        at_least(1, **{name: value for name, value in numbers.items() if value is not None})
        if self.images is not None and not self.images.is_dir():
            raise ValueError(f"images must be a folder of photos; there is none at {self.images}")


def not_measured(reason: str) -> str:
    """What a table shows in place of a figure."""
    return f"not measured: {reason}"


def unless_out_of_memory(function: Callable[[], Any]) -> Any:
    """A function's result; None, with its memory released, where a GPU's memory was not enough.

    On a CPU nothing is caught: the operating system ends a process that needs too much.
    """
    try:
        return function()
    except RuntimeError as error:  # torch.OutOfMemoryError is one; cuBLAS and cuDNN raise others
        if not isinstance(error, torch.OutOfMemoryError) and not any(m in str(error).lower() for m in _MESSAGES):
            raise
    # after the except clause: until then the error holds the frames with the function's tensors
    gc.collect()
    torch.cuda.empty_cache()
    return None
