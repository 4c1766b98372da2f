"""The record of one evaluation, which results.json holds: what records of every kind share, and how they are written.

kind, schema_version, created_utc     "reconstruction", ...: see `report.kinds`
status, errors, warnings              "ok" or "check_failed"; sentences for readers of the figures
metrics, metrics_std_err              the figures, named after the subset if there is one
metrics_absent, subset, num_images    reasons by metric; "5k" or None; how many images
protocol, dataset, model              what was measured, how, and on what
metric_weights, runtime, versions, git, command
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from open_magvit2.common import environment
from open_magvit2.common.files import write_atomically

SCHEMA_VERSION = 2
_NEEDED = ("kind", "created_utc", "status", "errors", "warnings", "metrics", "metrics_std_err", "metrics_absent")
_NEEDED += ("subset", "num_images", "protocol", "dataset", "model")


def envelope(kind: str, errors: list[str], warnings: list[str]) -> dict[str, Any]:
    """The part of a record that does not depend on what was measured."""
    return {
        "kind": kind,
        "schema_version": SCHEMA_VERSION,
        "created_utc": environment.now(),
        "status": "check_failed" if errors else "ok",
        "errors": errors,
        "warnings": warnings,
        "versions": environment.versions(),
        "git": environment.git(),
        "command": environment.command(),
    }


def write_json(path: Path | str, content: dict[str, Any]) -> dict[str, Any]:
    """Write a record or a table as JSON, atomically, with null for what is not a number.

    JSON has no NaN and no infinity (the PSNR of a perfect reconstruction). Such a value becomes null, and its name and
    value are added to `content["warnings"]`.

    Args:
        path: the file; its folder is made if necessary.
        content: nested dictionaries and lists of plain values, tensors and paths.

    Returns:
        the content as plain values, as it was written.

    Raises:
        TypeError: for a value that JSON cannot hold, by name.
    """
    content = plain(content)
    write_atomically(Path(path), json.dumps(content, indent=2, allow_nan=False) + "\n")
    return content


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """The plain values that `write_json` writes."""
    replaced: list[str] = []
    values = _plain(content, "", replaced)
    if replaced:
        values.setdefault("warnings", []).extend(replaced)
    return values


def read(path: Path) -> dict[str, Any]:
    """A record of results.json.

    Raises:
        ValueError: if the file is no record of this schema.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path}: expected a record of schema {SCHEMA_VERSION}, got {version}")
    if missing := [name for name in _NEEDED if name not in record]:
        raise ValueError(f"{path}: the record has no {', '.join(missing)}")
    return record


def figure(record: dict[str, Any], name: str) -> tuple[str, float | None]:
    """(the name of a figure with its subset, its value or None)."""
    full = f"{name}_{record['subset']}" if record["subset"] else name
    return full, record["metrics"].get(full)


def image_count(record: dict[str, Any]) -> str | None:
    """The number of images, "13 images", where it is not the protocol's; else None."""
    number = record["num_images"]
    return None if number == record["protocol"]["num_images"] else f"{number:,} images"


def doubts(record: dict[str, Any]) -> list[str]:
    """Marks at the method's name: how a record differs from those of a named protocol that passed the checks."""
    texts = [] if record["status"] == "ok" else ["check failed"]
    left_out = record.get("dataset", {}).get("left_out", {})
    if number := sum(count for kind, count in left_out.items() if not kind.startswith("hidden")):
        texts.append(f"{number:,} of the folder left out")
    changes = record["protocol"].get("changes")
    if changes:
        changed = ", ".join(name for name in changes if name != "name")
        texts.append(f"custom protocol: {changes['name'][0]} with other {changed}")
    return texts


def _plain(value: Any, name: str, replaced: list[str]) -> Any:
    """Plain JSON values of anything a record holds; non-finite numbers become None and are noted by name."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{name}.{k}".lstrip("."), replaced) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}[{i}]", replaced) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        replaced.append(f"{name} is {value}: written as null")
        return None
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{name!r} is a {type(value).__name__}, which JSON cannot hold")
