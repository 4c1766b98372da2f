"""Several tokenizers in one comparison: each row measured here, or as published, and saying which.

The figures of a row are, in this order: those of an earlier results.json of the same checkpoint, images and protocol;
those of an evaluation now, where its file is here and can be loaded; the published ones.
"""

import json
import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from open_magvit2.common import published_files, weights
from open_magvit2.common.checkpoints import digest
from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.common.files import sha256
from open_magvit2.evaluation import image_size as sizes
from open_magvit2.evaluation import tokenizers
from open_magvit2.evaluation.report import record as records
from open_magvit2.evaluation.report import write
from open_magvit2.evaluation.report.kinds import KINDS, figure_name
from open_magvit2.evaluation.run import Setting, evaluate_checkpoint, subset_suffix
from open_magvit2.evaluation.sanity import SanityError
from open_magvit2.evaluation.table_rows import Row

logger = logging.getLogger(__name__)

# An error may advise a flag of the command line, which would change every row: what changes the one row instead.
_FLAGS_OF_ONE_ROW = {"--allow-cross-resolution": "cross_resolution: true", "--image-size": "image_size"}


@dataclass(frozen=True)
class _Plan:
    """The plan for a row, decided once for all ranks."""

    state: str  # "reused", "evaluated", "published" or "failed"
    reason: str = ""  # why the published figures stay, or what failed
    results: Path | None = None  # of an earlier evaluation, or to be written
    checkpoint: Path | None = None


def compare(
    rows: list[Row],
    folder: str | Path,
    checkpoints: str | Path,
    setting: Setting | None,
    kind: str = "reconstruction",
    common: list[Row] | None = None,
    fetched: dict[str, Path] | None = None,
) -> list[dict[str, Any]]:
    """The rows with their figures; evaluates what can be; a collective call under DDP.

    An evaluation's own files go to `folder`/rows, where the next call finds them. A row that fails keeps its published
    figures and tells the error under "error"; the others are not touched by it.

    Args:
        rows: of `table_rows.load`.
        folder: where earlier results.json are looked for, at any depth, and new ones written.
        checkpoints: folder of the files the rows name.
        setting: images and device to evaluate on; None: evaluate nothing, use earlier results on whatever images.
        kind: of the records.
        common: the same rows under one protocol for all, measured as well; each row tells it under "common".
        fetched: files outside `checkpoints` by the row's `checkpoint`, see `downloads.fetch`.

    Returns:
        plain dictionaries for table.json, one a row.
    """
    folder = Path(folder)
    filled = _compare(rows, folder, Path(checkpoints), fetched or {}, setting, kind)
    if common is not None:
        under = _compare(common, folder, Path(checkpoints), fetched or {}, setting, kind)
        for entry, other in zip(filled, under, strict=True):
            entry["common"] = {name: other[name] for name in ("protocol", "figures", "state", "error", "results")}
            if other["error"] and not entry["error"]:
                entry["error"] = f"under the protocol {other['protocol']}: {other['error']}"
    return filled


def _compare(
    rows: list[Row], folder: Path, checkpoints: Path, fetched: dict[str, Path], setting: Setting | None, kind: str
) -> list[dict[str, Any]]:
    # Rank 0 decides for all: it alone writes, and the others must not look while it does.
    plans = None
    if rank() == 0:
        earlier = _earlier_records(folder, kind)
        plans = [_plan(row, earlier, folder, checkpoints, fetched, setting) for row in rows]
    plans = all_gather_object(plans)[0]
    done: dict[tuple[Any, ...], _Plan] = {}  # two rows may be one file, whose own protocols a common one replaces
    filled = []
    for row, plan in zip(rows, plans, strict=True):
        if plan.state == "evaluated":
            same = (plan.results, row.family, row.cross_resolution)
            plan = done[same] if same in done else done.setdefault(same, _evaluate(row, plan, setting))
        filled.append(_fill(row, plan, folder, kind))
    return filled


def _plan(
    row: Row,
    earlier: list[tuple[Path, dict[str, Any]]],
    folder: Path,
    checkpoints: Path,
    fetched: dict[str, Path],
    setting: Setting | None,
) -> _Plan:
    if row.never_released:
        return _Plan("published", "its weights were never released")
    if row.checkpoint is None:
        return _Plan("published", "its row names no checkpoint file")
    path = checkpoints / row.checkpoint
    path = path if path.exists() else fetched.get(row.checkpoint)
    try:
        key = _key(row, path, setting)
    except Exception as error:  # an unreadable file or unusable images are this row's error, not the table's
        return _Plan("failed", _one_line(error))
    for results, record in earlier:
        if _fits(record, row, key, setting):
            return _Plan("reused", results=results)
    if row.family is None:
        return _Plan("published", "its family of tokenizers cannot be loaded yet")
    if path is None:
        return _Plan("published", f"{row.checkpoint} is not in {checkpoints}")
    try:
        tokenizers.family_module(row.family)
    except ValueError as error:
        return _Plan("failed", str(error))
    if setting is None:
        return _Plan("published", "not evaluated: no images were given")
    short = sha256(json.dumps(key, sort_keys=True).encode())[:8]
    size = "x".join(map(str, row.size)) if row.size else "native"
    name = f"{Path(row.checkpoint).stem}-{size}-{row.protocol.name}-{short}"
    return _Plan("evaluated", results=folder / "rows" / name / "results.json", checkpoint=path)


def _key(row: Row, path: Path | None, setting: Setting | None) -> dict[str, Any]:
    """Facts that an earlier record must share with a row; those that cannot be known here are left out."""
    size = sizes.to_plain(row.size)
    key: dict[str, Any] = {"protocol": json.loads(json.dumps(row.protocol.as_dict())), "image_size": size}
    if path is not None:
        key["sha256"] = digest(path)
    if setting is not None:
        dataset, facts = setting.images(row.protocol.resize, row.size)
        limit = setting.limit
        key["fingerprint"] = [facts["fingerprint"], facts["fingerprint_mode"]]
        key["subset"] = subset_suffix(limit).lstrip("_") if limit is not None and limit < len(dataset) else None
    return key


def _fits(record: dict[str, Any], row: Row, key: dict[str, Any], setting: Setting | None) -> bool:
    """Whether an earlier record is what an evaluation of the row would give now."""
    model, dataset, protocol = record["model"], record["dataset"], record["protocol"]
    same = {
        "protocol": {name: value for name, value in protocol.items() if name in key["protocol"]},
        "image_size": protocol["image_size"],
        "sha256": model["checkpoint_sha256"],
        "fingerprint": [dataset["fingerprint"], dataset["fingerprint_mode"]],
        "subset": record["subset"],
    }
    if any(same[name] != value for name, value in key.items()):
        return False
    if "sha256" not in key and Path(model["checkpoint_path"]).name != row.checkpoint:
        return False
    if record["status"] != "ok" and setting is not None and setting.check == "stop":
        return False
    # A record that lacks a figure for want of network weights is made again once they are here.
    can_evaluate = setting is not None and "sha256" in key
    return not (can_evaluate and any(map(_are_here_now, record["metrics_absent"].values())))


def _are_here_now(reason: str) -> bool:
    """Whether the weight files that the reason for an absent figure names are on this machine by now."""
    names = [name for name in weights.KNOWN if name in reason]
    try:
        return bool(names) and all(weights.find(name) for name in names)
    except weights.WeightsUnavailable:
        return False


def _earlier_records(folder: Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """Every results.json of a kind below a folder, newest first."""
    earlier = []
    for path in folder.rglob("results.json"):
        try:
            record = records.read(path)
            if record["kind"] == kind:
                earlier.append((path, record))
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s is left out: it cannot be read (%r)", path, error)
    return sorted(earlier, key=lambda item: item[1]["created_utc"], reverse=True)


def _fill(row: Row, plan: _Plan, folder: Path, kind: str) -> dict[str, Any]:
    """A row with the figures of its plan, which has been carried out; under DDP rank 0 alone has measured ones."""
    columns = (*KINDS[kind].figures, *KINDS[kind].further)
    published = {column.name: row.published.get(column.name) for column in columns}
    filled = {
        **{f.name: getattr(row, f.name) for f in fields(Row) if f.name not in ("published", "weights")},
        "image_size": sizes.to_plain(row.image_size),
        "protocol": row.protocol.name,
        "facts": dict(row.facts),
        "state": plan.state,
        "figures": {
            name: {"value": value, "source": None if value is None else "published", "name": name}
            for name, value in published.items()
        },
        "notes": [plan.reason] if plan.state == "published" else [],
        "error": plan.reason if plan.state == "failed" else None,
        "results": None,
    }
    if plan.state in ("reused", "evaluated") and rank() == 0:
        _add_measured(filled, records.read(plan.results), kind)
        filled["results"] = plan.results.relative_to(folder).as_posix()
    if row.remark and any(cell["source"] == "published" for cell in filled["figures"].values()):
        filled["notes"].append(f"published: {row.remark}")
    return filled


def _evaluate(row: Row, plan: _Plan, setting: Setting) -> _Plan:
    """Measure a row and write its files; an error becomes the row's."""
    try:
        setting = replace(setting, allow_cross_resolution=setting.allow_cross_resolution or row.cross_resolution)
        names = row.method, str(row.facts.get("train_data", "-"))
        run = evaluate_checkpoint(plan.checkpoint, row.family, row.protocol, row.size, setting, *names)
        if rank() == 0:
            write.run_files(plan.results.parent, run)
    except Exception as error:
        # Of several ranks only errors that all of them meet alike may pass: the next row begins together. Those of one
        # rank are no ValueError, see `loop.evaluate`.
        if world_size() > 1 and not isinstance(error, SanityError | ValueError):
            raise
        reason = _one_line(error)
        for flag, key in _FLAGS_OF_ONE_ROW.items():
            reason = reason.replace(flag, f"{key} in the row's YAML")
        logger.error("%s (%s) failed: %s", row.method, row.checkpoint, reason)
        return replace(plan, state="failed", reason=reason)
    return plan


def _add_measured(filled: dict[str, Any], record: dict[str, Any], kind: str) -> None:
    """Put measured figures in the place of published ones, each under the name it has in results.json."""
    for column in (*KINDS[kind].figures, *KINDS[kind].further):
        name = figure_name(column, record["protocol"])
        full, value = records.figure(record, name) if name else ("", None)
        if value is not None:
            published = filled["figures"][column.name]["value"]
            filled["figures"][column.name] = {
                "value": value,
                "source": "measured",
                "name": full,
                "published": published,
                "standard_error": record["metrics_std_err"].get(full),
            }
    for name, value in KINDS[kind].describe(record).items():
        if name != "train_data" and filled["facts"][name] != value:
            if filled["facts"][name] != "-":
                said = f"the table's file says {filled['facts'][name]}"
                filled["notes"].append(f"{name.replace('_', ' ')} is {value}, {said}")
            filled["facts"][name] = value
    if other := _other_model(filled["file"], record["model"]):
        filled["notes"].append(other)
    filled["measured"] = {
        "family": record["model"].get("family"),
        "status": record["status"],
        "num_images": record["num_images"],
        "images": records.image_count(record),
        "image_size": record["protocol"]["image_size"],
        "subset": record["subset"],
        "weights_used": record["model"]["weights_used"],
        "checkpoint_sha256": record["model"]["checkpoint_sha256"],
        "fingerprint": record["dataset"]["fingerprint"],
        "created_utc": record["created_utc"],
        "num_params": record["model"].get("num_params"),
        "images_per_s": record.get("runtime", {}).get("images_per_s"),
        "metrics": record["metrics"],
        "metrics_absent": record["metrics_absent"],
    }
    if record["protocol"].get("cross_resolution"):
        filled["notes"].append(f"cross-resolution: trained at {record['model']['train_image_size']}")
    if record["metrics_absent"]:
        filled["notes"].append(f"left out: {', '.join(record['metrics_absent'])}")
    filled["notes"] += [f"check failed: {error}" for error in record["errors"]]


def _other_model(file: str | None, model: dict[str, Any]) -> str | None:
    """The loaded model, if its size is not that of the published file that the row names; else None."""
    known, number = published_files.find_published(file) if file else None, model.get("num_params")
    if known is None or known.millions is None or not number or _is_size(number, known.millions):
        return None
    files = [f for f in published_files.published() if f.family == model.get("family") and f.millions is not None]
    like = ", ".join(f.name for f in files if _is_size(number, f.millions))
    loaded = f"{model.get('family')} of {number / 1e6:.2f} M parameters" + (f", the size of {like}" if like else "")
    return f"not the model that the row names: the file holds {loaded}; {known.name} has {known.millions:.2f} M"


def _is_size(number: int, millions: float) -> bool:
    return abs(number / 1e6 - millions) < 0.01


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
