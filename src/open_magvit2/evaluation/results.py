"""An evaluation under a protocol: the figures, and what they were made from, as results.json holds them."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from open_magvit2.common import environment
from open_magvit2.common.distributed import rank, world_size
from open_magvit2.evaluation import metrics as metric_modules
from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.bfloat16 import Bfloat16Tokenizer
from open_magvit2.evaluation.loading import EvenSubset, PaddedTokenizer, make_loader
from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.reconstruction import Evaluation, evaluate
from open_magvit2.protocols import Sample, Tokenizer

logger = logging.getLogger(__name__)

_FEWEST_SIZES = 8  # images of one size that are no coincidence


@dataclass(frozen=True)
class Loading:
    """How images are loaded; only the limit moves the figures.

    Attributes:
        limit: evaluate so many images, evenly spaced; all figures are then named after it (rfid_5k).
        batch_size: images at once on each rank.
        num_workers: loading processes of each rank.
    """

    limit: int | None = None
    batch_size: int = 16
    num_workers: int = 0


@dataclass
class Run:
    """One evaluation: the content of results.json, and what a page draws beside it."""

    results: dict[str, Any]
    evaluation: Evaluation
    dataset: Dataset[Sample]
    tokenizer: Tokenizer
    device: torch.device


def run(
    tokenizer: Tokenizer,
    dataset: Dataset[Sample],
    protocol: Protocol,
    device: torch.device,
    dataset_facts: dict[str, Any],
    model_facts: dict[str, Any],
    image_size: int | None,
    loading: Loading = Loading(),
    check: Literal["stop", "record", "off"] = "stop",
    progress: bool = True,
) -> Run:
    """Evaluate a tokenizer under a protocol; a collective call under DDP.

    Args:
        tokenizer: with the protocol's weights, on `device`.
        dataset: Samples already made by the protocol's transform; sample i has index i.
        protocol: what to measure and how.
        device: to run on.
        dataset_facts, model_facts: as `provenance.folder` and `provenance.model` give them; the dataset's must name its
            content, since moments of its images are kept under them.
        image_size: side of the images; None in their own sizes.
        loading: how many images, and how they are loaded.
        check, progress: see `reconstruction.evaluate`.
    """
    limit, batch_size = loading.limit, loading.batch_size
    too_many = limit is not None and limit > len(dataset)
    if limit is not None and limit < len(dataset):
        dataset = EvenSubset(dataset, limit)
    else:
        limit = None
    if protocol.resize == "none":
        tokenizer, batch_size = PaddedTokenizer(tokenizer), 1
    if protocol.precision == "bf16":
        tokenizer = Bfloat16Tokenizer(tokenizer)
    pixels = provenance.pixel_fingerprint(dataset)
    transform = (protocol.resize, image_size, limit, len(dataset))
    key = repr((dataset_facts["fingerprint"], dataset_facts["fingerprint_mode"], pixels, transform))
    context = MetricContext(tokenizer.codebook_size, len(dataset), key)
    chosen, absent = metric_modules.create(list(protocol.metrics), context)
    for name, reason in absent.items():
        logger.warning("%s is left out: %s", name, reason)
    loader = make_loader(dataset, batch_size, loading.num_workers)
    found = evaluate(tokenizer, loader, chosen, device, protocol.tf32, progress, check)
    suffix = subset_suffix(limit) if limit else ""
    warnings = found.sanity.pop("warnings", []) + _warnings(protocol, dataset_facts, len(dataset), limit)
    if too_many:
        warnings.append(f"{loading.limit:,} images were asked for, there are {len(dataset):,}: all were evaluated")
    warnings += _model_warnings(model_facts, found.image_size, found.tokens_per_image)
    results = {
        "kind": "tokenizer-reconstruction",
        "created_utc": environment.now(),
        "status": "sanity_failed" if found.sanity.get("errors") else "ok",
        "metrics": {name + suffix: value for name, value in found.metrics.items()},
        "metrics_std_err": {name + suffix: value for name, value in found.standard_errors.items()},
        "metrics_absent": absent,
        "subset": suffix.lstrip("_") or None,
        "protocol": {
            **protocol.as_dict(),
            "image_size": image_size,
            "transform": _describe(protocol, image_size),
            "cross_resolution": _is_cross_resolution(model_facts, image_size),
        },
        "num_images": found.num_images,
        "tokens_per_image": found.tokens_per_image,
        "dataset": {**dataset_facts, "pixel_fingerprint": pixels},
        "model": model_facts,
        "metric_weights": provenance.metric_weights(chosen.values()),
        "runtime": {
            "device": provenance.device_name(device),
            "world_size": world_size(),
            "batch_size": batch_size,
            "precision": {"fp32": "float32", "bf16": "bfloat16 autocast"}[protocol.precision],
            "tf32": protocol.tf32,
            "deterministic": True,
            "seconds": found.seconds,
            "compute_seconds": found.compute_seconds,
            "images_per_s": found.images_per_s,
        },
        "versions": environment.versions(),
        "git": environment.git(),
        "command": environment.command(),
        "sanity": {**found.sanity, "warnings": warnings},
    }
    if rank() == 0:
        for warning in [*results["sanity"].get("errors", []), *warnings]:
            logger.warning("%s", warning)
    return Run(results, found, dataset, tokenizer, device)


def subset_suffix(number: int) -> str:
    """What a figure over a subset is called after: 5000 -> "_5k", 96 -> "_96"."""
    return f"_{number // 1000}k" if number % 1000 == 0 else f"_{number}"


def _describe(protocol: Protocol, image_size: int | None) -> str:
    if protocol.resize == "none":
        return "own size, padded with grey to a multiple of the downsampling factor, cropped back"
    return f"shorter side to {image_size} ({protocol.resize}), centre crop {image_size} x {image_size}"


def _warnings(protocol: Protocol, dataset_facts: dict[str, Any], number: int, limit: int | None) -> list[str]:
    """What a reader must know beside the figures."""
    found = []
    if skipped := dataset_facts.get("skipped"):
        found.append(f"{len(skipped):,} files could not be read and were left out: see dataset.skipped in results.json")
    if number != protocol.num_images:
        part = f"a subset of {number:,}" if limit else f"{number:,}"
        found.append(
            f"{part} images, not the {protocol.num_images:,} of the protocol: rFID and codebook figures depend on the "
            "number of images and are not comparable with published ones"
        )
    elif not dataset_facts.get("known_as"):
        found.append(f"{number:,} images, but not 1000 classes of 50: is this ImageNet validation?")
    sizes = dataset_facts.get("sampled_sizes", {"distinct": 0, "looked_at": 0})
    if sizes["distinct"] == 1 and sizes["looked_at"] >= _FEWEST_SIZES:
        found.append(
            f"all of {sizes['looked_at']} images looked at have one size in their files: resized or cropped, they "
            "are not the originals that published figures were made from"
        )
    if protocol.changes:
        changes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in protocol.changes.items() if name != "name")
        found.append(f"not the protocol {protocol.changes['name'][0]}: {changes}")
    return found


def _is_cross_resolution(facts: dict[str, Any], image_size: int | None) -> bool | None:
    """Whether the tokenizer was trained at another size; None where that is not known."""
    trained = facts.get("train_image_size")
    return None if trained is None else trained != image_size


def _model_warnings(facts: dict[str, Any], image_size: list[int] | None, tokens: list[int] | None) -> list[str]:
    """What its file tells of the tokenizer, and that it was trained at another size."""
    found = [f"checkpoint: {warning}" for warning in facts.get("warnings", [])]
    trained = facts.get("train_image_size")
    if trained is not None and image_size != [trained, trained]:
        size = " x ".join(map(str, image_size)) if image_size else "their own sizes"
        grid = f", {' x '.join(map(str, tokens))} tokens an image" if tokens else ""
        found.append(f"cross-resolution: trained at {trained} x {trained}, evaluated at {size}{grid}")
    return found
