"""What a benchmark runs on and how thoroughly, and the form of what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# One line of a table. "table" says of which; the other keys are its columns, in order, the unit in the name.
Row = dict[str, Any]

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Settings:
    """Shared by all sections.

    Attributes:
        device: to measure on.
        full: the sizes of the published recipe; otherwise small ones, minutes on two cores.
        repeats: measurements behind every median.
        models: names of the published models to measure at full size; None is all. Sections that take a single one
            (growth, profiling, scaling) take the first.
        batch: images of a step in the sections training_step and precisions; None: their own choices.
        tokens, bits: N and K of the section entropy, every one with every other; None: its own choices.
        images: folder of photos; None draws images by code, where a section can do with those.
        checkpoint: a trained tokenizer, to say what bfloat16 does to its tokens; None leaves that out.
        repository: the checkout whose scripts and configs are measured.

    Raises:
        ValueError: if there is nothing to repeat, no image in a batch, or no such folder or file.
    """

    device: torch.device
    full: bool
    repeats: int = 5
    models: Sequence[str] | None = None
    batch: int | None = None
    tokens: Sequence[int] | None = None
    bits: Sequence[int] | None = None
    images: Path | None = None
    checkpoint: Path | None = None
    repository: Path = Path()

    def __post_init__(self) -> None:
        numbers = {"repeats": [self.repeats], "batch": [self.batch], "tokens": self.tokens, "bits": self.bits}
        for name, given in numbers.items():
            for number in given or []:
                if number is not None and number < 1:
                    raise ValueError(f"{name} must be at least 1, got {number}")
        if self.images is not None and not self.images.is_dir():
            raise ValueError(f"images must be a folder of photos; there is none at {self.images}")
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise ValueError(f"checkpoint must be a tokenizer's file; there is none at {self.checkpoint}")
        if self.checkpoint is not None and self.images is None:
            raise ValueError("checkpoint was given without images: add the folder of photos to tokenize")


def not_measured(reason: str) -> str:
    """What a table shows in place of a figure: never a guess."""
    return f"{NOT_MEASURED}: {reason}"


def gib(num_bytes: float) -> float:
    """Bytes in GiB."""
    return num_bytes / 2**30
