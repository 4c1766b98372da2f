"""An evaluation of generated images: a set of them and a reference in, the record of results.json out."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common import checkpoints
from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.images import to_float
from open_magvit2.common.precision import float32
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.evaluation import metrics as metric_table
from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.reference import Reference, load_reference
from open_magvit2.evaluation.loop import Evaluation, measure
from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.metrics.inception_score import GROUP_SIZE
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.report.record import envelope
from open_magvit2.evaluation.samples import ImageSet, class_balance
from open_magvit2.protocols import EvaluationBatch

logger = logging.getLogger(__name__)

_NUM_PICTURES = 32
_MOMENTS = {"fid": inception.NUM_FEATURES, "sfid": inception.NUM_SPATIAL_FEATURES}
_SHUFFLED_SHARE = 0.9  # of the classes that a group in random order would hold
_SCORE_SHARE = 0.95  # of the shuffled Inception Score


@dataclass(frozen=True)
class GenerationSetting:
    """Against what and where generated images are evaluated."""

    reference: Path  # npz or folder, see `features.reference`
    device: torch.device
    batch_size: int = 50
    progress: bool = True
    allow_few_images: bool = False  # fewer than the covariance of the features has dimensions


@dataclass
class GenerationRun:
    """One evaluation: the record of results.json, and what a page shows besides."""

    record: dict[str, Any]
    evaluation: Evaluation
    pictures: Tensor  # uint8 [P, 3, H, W], evenly spaced over the images


def evaluate_images(
    images: ImageSet, model: dict[str, Any], protocol: Protocol, setting: GenerationSetting
) -> GenerationRun:
    """Evaluate generated images against a reference; a collective call under DDP.

    Args:
        images: an npz file, a folder, or what a generator makes meanwhile.
        model: "method", "checkpoint_path", "checkpoint_sha256", "weights_used", "num_params", see `samples_model`.
        protocol: which metrics.
        setting: reference, device and loading.

    Raises:
        ValueError: for too few images, or a file that is not what it should be.
        FileNotFoundError: for a file that is not there, the Inception network's weights too.
    """
    inception.load()
    _check_number(len(images), "generated images", protocol, setting)
    with_features = "precision_recall" in protocol.metrics
    reference = load_reference(setting.reference, setting.device, with_features, setting.batch_size, setting.progress)
    if reference.facts["moments"] != "of the file":
        _check_number(reference.facts["num_images"], f"images of the reference {setting.reference}", protocol, setting)
    names, absent = _measurable(protocol.metrics, reference)
    chosen, missing = metric_table.create(names, MetricContext(num_images=len(images), reference=reference))
    absent |= missing
    pictures: dict[int, Tensor] = {}
    with float32(setting.device.type, protocol.tf32):
        result = measure(_batches(images, setting, pictures), chosen, setting.device)
    if result.num_images != len(images):
        raise ValueError(f"expected {len(images)} images, {result.num_images} were measured")
    warnings = _warnings(images, protocol, reference, result)
    balance = class_balance(images.labels)
    record = {
        **envelope("generation", [], warnings),
        "metrics": result.metrics,
        "metrics_std_err": {},
        "metrics_absent": absent,
        "subset": None,
        "protocol": {**protocol.as_dict(), "image_size": None, "transform": "own size, 8-bit pixels"},
        "num_images": result.num_images,
        "samples": {**images.facts, "num_images": len(images), "image_size": result.image_size, **balance},
        "reference": reference.facts,
        # What a table compares rows by.
        "dataset": {"fingerprint": reference.facts["sha256"], "fingerprint_mode": "reference"},
        "model": model,
        "metric_weights": provenance.metric_weights(chosen.values()),
        "runtime": {
            "device": provenance.device_name(setting.device),
            "world_size": world_size(),
            "batch_size": setting.batch_size,
            "tf32": protocol.tf32,
            "seconds": result.seconds,
            "compute_seconds": result.compute_seconds,
            "images_per_s": result.images_per_s,
        },
    }
    for warning in warnings if rank() == 0 else []:
        logger.warning("%s", warning)
    gathered = {place: picture for part in all_gather_object(pictures) for place, picture in part.items()}
    return GenerationRun(record, result, torch.stack([gathered[place] for place in sorted(gathered)]))


def samples_model(
    images: ImageSet, method: str = "", checkpoint: Path | None = None, num_params: int | None = None
) -> dict[str, Any]:
    """The model that images come from.

    Args:
        images: finished ones, or those of a generator.
        method: its name; by default that of its file.
        checkpoint: its file, by which a table finds the record; None: not known, the samples stand for it.
        num_params: how many parameters it has, if that is known.

    Raises:
        ValueError: if the images say that another file made them.
    """
    digest = images.facts.get("generator_sha256")
    path = checkpoint or Path(images.facts["path"])
    if checkpoint is not None:
        own = checkpoints.digest(checkpoint)
        if digest not in (None, own):
            raise ValueError(
                f"the images were made by a generator of SHA-256 {digest}, got {checkpoint} of {own}: name the file "
                "that made them"
            )
        digest = own
    return {
        "method": method or path.stem,
        "train_data": "-",
        "family": None,
        "checkpoint_path": str(path),
        "checkpoint_sha256": digest or images.facts["fingerprint"],
        "weights_used": None,
        "num_params": num_params,
    }


def _check_number(number: int, what: str, protocol: Protocol, setting: GenerationSetting) -> None:
    """Refuse sets whose covariance has not full rank."""
    size = max((size for name, size in _MOMENTS.items() if name in protocol.metrics), default=0)
    if size and number < 2:
        raise ValueError(f"expected at least 2 {what}, got {number}: a covariance needs two")
    if number <= size and not setting.allow_few_images:
        raise ValueError(
            f"expected at least {size + 1:,} {what}, got {number:,}: the covariance of {size:,} features has full rank "
            "only then. Take more, or --allow-few-images for a figure that compares with nothing published"
        )


def _measurable(names: tuple[str, ...], reference: Reference) -> tuple[list[str], dict[str, str]]:
    """The metrics that the reference allows, and why it does not allow the others."""
    absent = {}
    if reference.spatial is None:
        absent["sfid"] = "the reference has no moments mu_s and sigma_s of spatial features"
    if reference.features is None:
        absent["precision_recall"] = "the reference has no images arr_0, which nearest neighbours need"
    return [name for name in names if name not in absent], {n: why for n, why in absent.items() if n in names}


def _batches(
    images: ImageSet, setting: GenerationSetting, pictures: dict[int, Tensor]
) -> Iterator[tuple[EvaluationBatch, str]]:
    """This rank's batches for metrics; images for the page are put into `pictures`."""
    number = min(_NUM_PICTURES, len(images))
    shown = {i * len(images) // number for i in range(number)}
    bar = progress_bar(desc="evaluate", unit="image", total=len(images), disable=not setting.progress or rank() > 0)
    with bar:
        for index, pixels in images.batches(setting.batch_size):
            pictures |= {int(i): image.cpu().clone() for i, image in zip(index, pixels, strict=True) if int(i) in shown}
            batch = EvaluationBatch(to_float(pixels.to(setting.device)), index.to(setting.device))
            yield batch, f"image {int(index[0])}"
            bar.update(min(len(index) * world_size(), len(images) - bar.n))


def _warnings(images: ImageSet, protocol: Protocol, reference: Reference, result: Evaluation) -> list[str]:
    """Warnings for a reader of the figures, about the images, their order and the reference."""
    warnings = []
    if len(images) != protocol.num_images:
        warnings.append(
            f"{len(images):,} images, not the {protocol.num_images:,} of the protocol: all figures depend on the "
            "number of images and are not comparable with published ones"
        )
    for name, size in _MOMENTS.items():
        if name in result.metrics and len(images) <= size:
            warnings.append(f"{name}: {len(images):,} images, fewer than its {size:,} features: a singular covariance")
    if reference.facts["moments"] != "of the file":
        warnings.append(
            f"the reference's moments are of {reference.facts['num_images']:,} images, not of a published file: FID "
            "and sFID are not comparable with published ones"
        )
    balance = class_balance(images.labels)
    if balance["per_class"] and balance["per_class"][0] != balance["per_class"][1]:
        least, most = balance["per_class"]
        warnings.append(f"classes are not balanced: from {least:,} to {most:,} images of a class")
    score, shuffled = (result.metrics.get(name) for name in ("inception_score", "inception_score_shuffled"))
    if score is not None and _is_ordered(images.labels, len(images), score, shuffled):
        warnings.append(
            f"the images are not in shuffled order: inception_score {score:.2f} is a mean over consecutive groups of "
            f"{GROUP_SIZE:,}, which hold too few classes each. inception_score_shuffled {shuffled:.2f} is the figure "
            "that compares; shuffle the file for other evaluators"
        )
    if protocol.changes:
        changes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in protocol.changes.items() if name != "name")
        warnings.append(f"not the protocol {protocol.changes['name'][0]}: {changes}")
    return warnings


def _is_ordered(labels: Tensor | None, number: int, score: float, shuffled: float) -> bool:
    """Whether the groups of the Inception Score hold fewer classes than by chance, or score so where none is known."""
    if number <= GROUP_SIZE:
        return False
    if labels is None:
        return score < _SCORE_SHARE * shuffled
    counts = labels.unique(return_counts=True)[1].to(torch.float64)
    for group in labels.split(GROUP_SIZE):
        expected = (1.0 - (1.0 - counts / number) ** len(group)).sum().item()
        if len(group.unique()) < _SHUFFLED_SHARE * expected:
            return True
    return False
