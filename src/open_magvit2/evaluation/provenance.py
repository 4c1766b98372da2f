"""Provenance of a figure: the files, by checksum, and the machine; `common/environment.py` has the program."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from open_magvit2.common import checkpoints, weights
from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.common.files import sha256, sha256_of
from open_magvit2.data.decoding import UnreadableImageError, opened
from open_magvit2.protocols import Metric, Sample, Tokenizer

_NUM_FINGERPRINT_IMAGES = 64
_NUM_SIZES = 64


def device_name(device: torch.device) -> str:
    """Name of a GPU, or type of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def model(
    tokenizer: Tokenizer, family: str | None, checkpoint: str | Path, method: str = "", train_data: str = "-"
) -> dict[str, Any]:
    """A tokenizer: its name, file and size, and what its loader noticed (`protocols.CheckpointFacts`).

    `weights_used` are the weights that were loaded, whatever was asked for; a family that does not say has only raw
    ones.

    Args:
        tokenizer: as loaded.
        family: of `evaluation.tokenizers`; None: as it was recognised.
        checkpoint: its file, folder or name on the Hub.
        method: its name in tables; by default made of the family and the file.
        train_data: what it was trained on.
    """
    parameters = tokenizer.parameters() if isinstance(tokenizer, torch.nn.Module) else []
    facts = dict(getattr(tokenizer, "checkpoint_facts", {}))
    recognized = facts.pop("family", "open_magvit2")
    family = family or recognized
    return {
        "method": method or f"{family} {Path(checkpoint).stem}",
        "train_data": train_data,
        "family": family,
        "checkpoint_path": str(checkpoint),
        "checkpoint_sha256": checkpoints.digest(checkpoint),
        "weights_used": facts.pop("weights", "raw"),
        "num_params": sum(p.numel() for p in parameters),
        "codebook_size": tokenizer.codebook_size,
        "modality": tokenizer.modality,
        "size_rule": str(tokenizer.size_rule),
        "train_image_size": None,
        **facts,
    }


def metric_weights(metrics: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """The files behind the metrics' networks; all of them have been verified, or there would be no metric."""
    names = sorted({name for metric in metrics for name in getattr(metric, "weight_files", ())})
    return {
        name: {"path": str(weights.find(name)), "sha256": weights.KNOWN[name].sha256, "verified": True}
        for name in names
    }


def folder(
    root: str | Path, names: Sequence[str], file_list: str | Path | None = None, full: bool = True
) -> dict[str, Any]:
    """A dataset of files: how many, in how many classes, how large, and a fingerprint over names, sizes and contents.

    Rank 0 alone reads the files; a collective call under DDP.

    Args:
        root: the folder.
        names: of the dataset's images relative to it, in the dataset's order, on which grouped figures depend.
        file_list: where the names come from, if they are not all images of the folder.
        full: read every file; otherwise names and sizes only.
    """
    return all_gather_object(_folder(root, names, file_list, full) if rank() == 0 else None)[0]


def _folder(root: str | Path, names: Sequence[str], file_list: str | Path | None, full: bool) -> dict[str, Any]:
    root = Path(root).expanduser()

    def describe(name: str) -> str:
        path = root / name
        try:
            content = f"\t{sha256_of(path)}" if full else ""
            return f"{name}\t{path.stat().st_size}{content}\n"
        except OSError as error:  # reading the image says so, or --skip-broken leaves it out
            return f"{name}\t{error.strerror}\n"

    digest = hashlib.sha256()
    with ThreadPoolExecutor(8) as threads:
        for line in threads.map(describe, names):
            digest.update(line.encode("utf-8", errors="surrogateescape"))
    per_class = Counter(str(Path(name).parent) for name in names)
    counts = sorted(per_class.values())
    is_imagenet = (len(names), len(per_class), counts[:1], counts[-1:]) == (50_000, 1000, [50], [50])
    return {
        "root": str(root),
        "file_list": None if file_list is None else str(file_list),
        "num_files": len(names),
        "num_classes": len(per_class) if set(per_class) != {"."} else 0,
        "per_class": [counts[0], counts[-1]] if counts else [0, 0],
        "fingerprint": digest.hexdigest(),
        "fingerprint_mode": "full" if full else "size-only",
        "known_as": "ILSVRC2012 validation (by its counts)" if is_imagenet else None,
        "sampled_sizes": _sampled_sizes([root / name for name in names]),
    }


def _sampled_sizes(paths: list[Path]) -> dict[str, Any]:
    """Sizes of 64 images evenly spaced over the files, from their headers: a set cropped before shows one size."""
    number = min(_NUM_SIZES, len(paths))
    sizes = []
    for i in range(number):
        try:
            with opened(paths[i * len(paths) // number]) as image:
                sizes.append(image.size)
        except UnreadableImageError:
            continue  # the dataset refuses it by name
    shorter = sorted(map(min, sizes))
    return {
        "looked_at": len(sizes),
        "not_opened": number - len(sizes),
        "distinct": len(set(sizes)),
        "shorter_side": [shorter[0], shorter[-1]] if shorter else None,
    }


def drawn(description: str, number: int) -> dict[str, Any]:
    """A dataset drawn by code, which its description determines."""
    return {
        "root": description,
        "file_list": None,
        "num_files": number,
        "num_classes": 0,
        "per_class": [0, 0],
        "fingerprint": sha256(f"{description} {number}".encode()),
        "fingerprint_mode": "description",
        "known_as": "images drawn by code",
    }


def described(description: str, names: Sequence[str]) -> dict[str, Any]:
    """A dataset of a user's class: its class path and arguments, and a fingerprint over the names of its images."""
    content = "\n".join([description, *names]).encode("utf-8", "surrogateescape")
    return {
        **drawn(description, len(names)),
        "fingerprint": sha256(content),
        "fingerprint_mode": "description and names",
        "known_as": None,
    }


def pixel_fingerprint(dataset: Dataset[Sample]) -> str:
    """SHA-256 of the first 64 images as the tokenizer gets them: pins the decoder and the resizer across machines."""
    digest = hashlib.sha256()
    for index in range(min(_NUM_FINGERPRINT_IMAGES, len(dataset))):
        pixels = dataset[index]["image"]
        digest.update(str(tuple(pixels.shape)).encode())
        digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()
