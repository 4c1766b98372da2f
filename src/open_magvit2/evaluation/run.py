"""An evaluation under a protocol: a tokenizer and images in, the record of results.json out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from open_magvit2.common.distributed import rank, world_size
from open_magvit2.evaluation import image_size as sizes
from open_magvit2.evaluation import metrics as metric_table
from open_magvit2.evaluation import provenance, tokenizers
from open_magvit2.evaluation.adapters import Bfloat16Tokenizer, PaddedTokenizer
from open_magvit2.evaluation.image_size import ImageSize
from open_magvit2.evaluation.loop import Check, Evaluation, evaluate
from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.report.record import envelope
from open_magvit2.evaluation.sources import EvenSubset, ImageSource, make_loader
from open_magvit2.protocols import Sample, Tokenizer

logger = logging.getLogger(__name__)

_FEWEST_SIZES = 8  # images of one size that are no coincidence


@dataclass(frozen=True)
class Setting:
    """On what and where tokenizers are evaluated."""

    images: ImageSource  # its facts must name the content: moments of the images are kept under them
    device: torch.device
    limit: int | None = None  # evaluate so many images, evenly spaced; figures are then named after it (rfid_5k)
    batch_size: int = 16  # images at once on each rank
    num_workers: int = 0  # loading processes of each rank
    check: Check = "stop"  # what to do if the first images look wrong, see `loop.evaluate`
    progress: bool = True
    allow_cross_resolution: bool = False  # evaluate a tokenizer at another size than it was trained at
    allowed_modules: Sequence[str] = ()  # from which a checkpoint may name classes, besides this package


@dataclass
class Run:
    """One evaluation: the record of results.json, and what a page draws besides."""

    record: dict[str, Any]
    evaluation: Evaluation
    dataset: Dataset[Sample]
    tokenizer: Tokenizer
    device: torch.device


def evaluate_checkpoint(
    checkpoint: str | Path,
    family: str | None,
    protocol: Protocol,
    image_size: ImageSize | None,
    setting: Setting,
    method: str = "",
    train_data: str = "-",
) -> Run:
    """Evaluate the tokenizer in a file under a protocol; a collective call under DDP.

    Args:
        checkpoint, method, train_data: see `provenance.model`.
        family: a name or a module path, see `evaluation.tokenizers`; None: read off the file.
        protocol: what to measure and how, and which weights of the file.
        image_size: of the images; None: the size the tokenizer was trained at, where its file tells it, or, under a
            protocol that keeps them, the images' own sizes.
        setting: images, device and loading.

    Raises:
        ValueError, FileNotFoundError: no such family or file, or one that does not load; no image size, or another
            than the tokenizer's without `setting.allow_cross_resolution`.
        SanityError: if the first images look wrong and `setting.check` is "stop".
    """
    tokenizer = tokenizers.load(
        family, checkpoint, setting.device, weights=protocol.weights, allowed_modules=setting.allowed_modules
    )
    if protocol.resize != "none":
        image_size = check_image_size(tokenizer, image_size, setting.allow_cross_resolution)
    model = provenance.model(tokenizer, family, checkpoint, method, train_data)
    return evaluate_tokenizer(tokenizer, model, protocol, image_size, setting)


def evaluate_tokenizer(
    tokenizer: Tokenizer, model: dict[str, Any], protocol: Protocol, image_size: ImageSize | None, setting: Setting
) -> Run:
    """Evaluate a tokenizer, with the protocol's weights on `setting.device`; a collective call under DDP.

    Args: as above; `model` is what `provenance.model` gives.
    """
    dataset, facts = setting.images(protocol.resize, image_size)
    total = len(dataset)
    limit = setting.limit if setting.limit is not None and setting.limit < total else None
    dataset = dataset if limit is None else EvenSubset(dataset, limit)
    batch_size = setting.batch_size
    if protocol.resize == "none":
        tokenizer, batch_size = PaddedTokenizer(tokenizer), 1
    if protocol.precision == "bf16":
        tokenizer = Bfloat16Tokenizer(tokenizer)
    pixels = provenance.pixel_fingerprint(dataset)
    # Under this key rFID keeps the moments of the originals.
    transform = (protocol.resize, sizes.to_plain(image_size), limit, len(dataset))
    if protocol.jpeg_quality is not None:
        transform += (f"JPEG {protocol.jpeg_quality}",)
    key = repr((facts["fingerprint"], facts["fingerprint_mode"], pixels, transform))
    context = MetricContext(tokenizer.codebook_size, len(dataset), key, is_continuous=tokenizer.codebook_size is None)
    chosen, absent = metric_table.create(protocol.metrics, context)
    for name, reason in absent.items():
        logger.warning("%s is left out: %s", name, reason)
    loader = make_loader(dataset, batch_size, setting.num_workers)
    how = (protocol.tf32, setting.progress, setting.check, protocol.jpeg_quality)
    result = evaluate(tokenizer, loader, chosen, setting.device, *how)
    sanity = dict(result.sanity)
    warnings = [*sanity.pop("warnings", []), *_warnings(model, protocol, facts, len(dataset), limit, result)]
    if setting.limit is not None and setting.limit > total:
        warnings.append(f"{setting.limit:,} images were asked for, there are {total:,}: all were evaluated")
    suffix = subset_suffix(limit) if limit else ""
    trained = model.get("train_image_size")
    record = {
        **envelope("reconstruction", sanity.pop("errors", []), warnings),
        "metrics": {name + suffix: value for name, value in result.metrics.items()},
        "metrics_std_err": {name + suffix: value for name, value in result.standard_errors.items()},
        "metrics_absent": absent,
        "subset": suffix.lstrip("_") or None,
        "protocol": {
            **protocol.as_dict(),
            "image_size": sizes.to_plain(image_size),
            "transform": _transform_in_words(protocol, image_size),
            "cross_resolution": None if trained is None else list(sizes.from_plain(trained)) != result.image_size,
        },
        "num_images": result.num_images,
        "tokens_per_image": result.tokens_per_image,
        "token_type": f"{min(result.token_axes or 0, 3 if model.get('modality') == 'video' else 2)}D",
        "dataset": {**facts, "pixel_fingerprint": pixels},
        "model": model,
        "metric_weights": provenance.metric_weights(chosen.values()),
        "runtime": {
            "device": provenance.device_name(setting.device),
            "world_size": world_size(),
            "batch_size": batch_size,
            "precision": {"fp32": "float32", "bf16": "bfloat16 autocast"}[protocol.precision],
            "tf32": protocol.tf32,
            "deterministic": True,
            "seconds": result.seconds,
            "compute_seconds": result.compute_seconds,
            "images_per_s": result.images_per_s,
        },
        "sanity": sanity,
    }
    for warning in [*record["errors"], *warnings] if rank() == 0 else []:
        logger.warning("%s", warning)
    return Run(record, result, dataset, tokenizer, setting.device)


def check_image_size(tokenizer: Tokenizer, image_size: ImageSize | None, allow_cross_resolution: bool) -> ImageSize:
    """The size to evaluate at: the one asked for, or the training's; another than the training's only on request.

    Raises:
        ValueError: with the numbers of tokens of both sizes, or for a size that the tokenizer does not take.
    """
    facts = getattr(tokenizer, "checkpoint_facts", {})
    trained = None if facts.get("train_image_size") is None else sizes.from_plain(facts["train_image_size"])
    size = image_size or trained or tokenizer.size_rule.fixed
    if size is None:
        raise ValueError(
            "the file does not tell the size its tokenizer was trained at: give the size of the images (--image-size), "
            "or keep their own (--protocol native)"
        )
    tokens = tokenizer.token_shape(size)
    if trained not in (None, size) and not allow_cross_resolution:
        raise ValueError(
            f"a tokenizer trained at {sizes.text(trained)} would be evaluated at {sizes.text(size)}, with "
            f"{sizes.text(tokens)} tokens an image instead of {sizes.text(tokenizer.token_shape(trained))}. If that is "
            "meant: --allow-cross-resolution; the results will say so"
        )
    return tuple(size)


def subset_suffix(number: int) -> str:
    """Suffix of figures over a part of a dataset: _5k, _500."""
    return f"_{number // 1000}k" if number % 1000 == 0 else f"_{number}"


def _transform_in_words(protocol: Protocol, size: ImageSize | None) -> str:
    files = f"; both sides through JPEG files of quality {protocol.jpeg_quality}" if protocol.jpeg_quality else ""
    if protocol.resize == "none":
        return f"own size, padded with grey to a size that the tokenizer takes, cropped back{files}"
    if protocol.resize.startswith("squash"):
        return f"resized to {sizes.text(size)} ({protocol.resize}), the aspect ratio not kept{files}"
    side = f"shorter side to {size[0]}" if size[0] == size[1] else f"resized to cover {sizes.text(size)}"
    return f"{side} ({protocol.resize}), centre crop {sizes.text(size)}{files}"


def _warnings(
    model: dict[str, Any], protocol: Protocol, facts: dict[str, Any], number: int, limit: int | None, result: Evaluation
) -> list[str]:
    """Warnings for a reader of the figures, about the checkpoint, the images, the protocol and the image size."""
    warnings = [f"checkpoint: {warning}" for warning in model.get("warnings", [])]
    used = model.get("weights_used", protocol.weights)
    if used not in (None, protocol.weights):
        warnings.append(f"{used} weights: the tokenizer has no {protocol.weights} weights, which the protocol asks for")
    if skipped := facts.get("skipped"):
        warnings.append(f"{len(skipped):,} files could not be read and were left out: see dataset.skipped")
    if left_out := facts.get("left_out"):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.items())
        warnings.append(f"left out of the folder: {kinds}")
    if number != protocol.num_images:
        part = f"a subset of {number:,}" if limit else f"{number:,}"
        warnings.append(
            f"{part} images, not the {protocol.num_images:,} of the protocol: rFID and codebook figures depend on the "
            "number of images and are not comparable with published ones"
        )
    elif not facts.get("known_as"):
        warnings.append(f"{number:,} images, but not 1000 classes of 50: is this ImageNet validation?")
    seen = facts.get("sampled_sizes", {"distinct": 0, "looked_at": 0})
    if seen["distinct"] == 1 and seen["looked_at"] >= _FEWEST_SIZES:
        warnings.append(
            f"all of {seen['looked_at']} images looked at have one size in their files: resized or cropped, they are "
            "not the originals that published figures were made from"
        )
    if protocol.changes:
        changes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in protocol.changes.items() if name != "name")
        warnings.append(f"not the protocol {protocol.changes['name'][0]}: {changes}")
    trained = model.get("train_image_size")
    if trained is not None and result.image_size != list(sizes.from_plain(trained)):
        size = sizes.text(result.image_size) if result.image_size else "their own sizes"
        grid = f", {sizes.text(result.tokens_per_image)} tokens an image" if result.tokens_per_image else ""
        warnings.append(
            f"cross-resolution: trained at {sizes.text(sizes.from_plain(trained))}, evaluated at {size}{grid}"
        )
    return warnings
