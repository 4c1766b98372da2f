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
from open_magvit2.protocols import Sample, Tokenizer

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
        allow_cross_resolution: evaluate a tokenizer at another size than it was trained at.
    """

    images: ImageSource
    device: torch.device
    loading: Loading = field(default_factory=Loading)
    check: Literal["stop", "record", "off"] = "stop"
    progress: bool = True
    allow_cross_resolution: bool = False


def evaluate_checkpoint(
    checkpoint: str | Path, family: str, protocol: Protocol, image_size: int | None, setting: Setting
) -> Run:
    """Evaluate the tokenizer in a file under a protocol; a collective call under DDP.

    Args:
        checkpoint: the file.
        family: a module of `evaluation.tokenizers`.
        protocol: what to measure and how, which weights of the file included.
        image_size: side of the images; None: the size the tokenizer was trained at, where its file tells it, or, under
            a protocol that keeps them, the images' own sizes.
        setting: images, device and loading.

    Raises:
        ValueError, FileNotFoundError: no such family or file, or one that does not load; no image size, or another
            than the tokenizer's without `setting.allow_cross_resolution`.
        SanityError: if the first images look wrong and `setting.check` is "stop".
    """
    tokenizer = tokenizers.load(family, checkpoint, weights=protocol.weights, device=setting.device)
    model = provenance.model(tokenizer, family, checkpoint, protocol.weights)
    if protocol.resize != "none":
        image_size = check_image_size(tokenizer, image_size, setting.allow_cross_resolution)
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


def check_image_size(tokenizer: Tokenizer, image_size: int | None, allow_cross_resolution: bool) -> int:
    """The size to evaluate at: never a default, and another than the training's only on request.

    Args:
        tokenizer: may know the size it was trained at, see `protocols.CheckpointFacts`.
        image_size: asked for; None: the training's.
        allow_cross_resolution: the request.

    Raises:
        ValueError: saying what the size would mean.
    """
    trained = getattr(tokenizer, "checkpoint_facts", {}).get("train_image_size")
    if image_size is None:
        if trained is None:
            raise ValueError(
                "the file does not tell the size its tokenizer was trained at: give the size of the images "
                "(--image-size), or keep their own (--protocol native)"
            )
        return trained
    if trained not in (None, image_size) and not allow_cross_resolution:
        factor = tokenizer.downsampling
        raise ValueError(
            f"a tokenizer trained at {trained} x {trained} would be evaluated at {image_size} x {image_size}, with "
            f"{image_size // factor} x {image_size // factor} tokens an image instead of {trained // factor} x "
            f"{trained // factor}. If that is meant: --allow-cross-resolution; the results will say so"
        )
    return image_size
