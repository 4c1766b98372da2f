"""From a checkpoint file to its figures: load it, make the images its protocol asks for, evaluate."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from open_magvit2.evaluation import provenance, results, tokenizers
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.results import Loading, Run
from open_magvit2.protocols import Sample

# (a protocol's resize, side of the images or None) -> Samples in that form, and the dataset's facts for results.json
ImageSource = Callable[[str, int | None], tuple[Dataset[Sample], dict[str, Any]]]


@dataclass(frozen=True)
class Setting:
    """On what and where checkpoints are evaluated, whichever they are.

    Attributes:
        images: makes the dataset in the form a protocol asks for.
        device: to run on.
        loading: how many images, and how they are loaded; only the limit moves the figures.
        check: what to do if the first images look wrong, see `reconstruction.evaluate`.
        progress: draw a progress bar.
    """

    images: ImageSource
    device: torch.device
    loading: Loading = field(default_factory=Loading)
    check: Literal["stop", "record", "off"] = "stop"
    progress: bool = True


def evaluate_checkpoint(
    checkpoint: str | Path, family: str, protocol: Protocol, image_size: int | None, setting: Setting
) -> Run:
    """Evaluate the tokenizer in a file under a protocol; a collective call under DDP.

    Args:
        checkpoint: the file.
        family: a module of `evaluation.tokenizers`.
        protocol: what to measure and how, which weights of the file included.
        image_size: side of the images; None in their own sizes.
        setting: images, device and loading.

    Raises:
        ValueError, FileNotFoundError: no such family or file, or one that does not load.
        SanityError: if the first images look wrong and `setting.check` is "stop".
    """
    tokenizer = tokenizers.load(family, checkpoint, weights=protocol.weights, device=setting.device)
    model = provenance.model(tokenizer, family, checkpoint, protocol.weights)
    dataset, facts = setting.images(protocol.resize, image_size)
    return results.run(
        tokenizer,
        dataset,
        protocol,
        setting.device,
        facts,
        model,
        image_size,
        setting.loading,
        setting.check,
        setting.progress,
    )
