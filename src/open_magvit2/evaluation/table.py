"""Several tokenizers in one comparison: each row measured here, or as published, and saying which.

A row's figures are, in this order: those of an earlier results.json of the same checkpoint, images and protocol; those
of an evaluation now, where its file is here and can be loaded; the published ones.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from open_magvit2.common import environment, weights
from open_magvit2.common.distributed import all_gather_object, rank, world_size
from open_magvit2.evaluation import report, table_page, tokenizers
from open_magvit2.evaluation.checkpoint import Setting, evaluate_checkpoint
from open_magvit2.evaluation.results import subset_suffix
from open_magvit2.evaluation.sanity import SanityError
from open_magvit2.evaluation.table_rows import FIGURES, Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """What will be done for a row, decided once for all ranks."""

    action: str  # "reuse", "evaluate", "publish" or "fail"
    reason: str = ""  # why the published figures stay, or what failed
    results: Path | None = None  # of an earlier evaluation, or to be written
    checkpoint: Path | None = None


def compare(
    rows: list[Row], folder: str | Path, checkpoints: str | Path, setting: Setting | None
) -> list[dict[str, Any]]:
    """The rows with their figures; evaluates what can be; a collective call under DDP.

    An evaluation's own files go to `folder`/rows, so that the next call finds them. A row that fails keeps its
    published figures and says what went wrong under "error"; the others are not touched by it.

    Args:
        rows: of `table_rows.load`.
        folder: where earlier results.json are looked for, at any depth, and new ones written.
        checkpoints: folder of the files the rows name.
        setting: images and device to evaluate on; None: evaluate nothing, take earlier results on whatever images.

    Returns:
        plain dictionaries for table.json, one a row.
    """
    folder = Path(folder)
    # Rank 0 decides for all: it alone writes, and the others must not look while it does.
    plans = all_gather_object(_plan(rows, folder, Path(checkpoints), setting) if rank() == 0 else None)[0]
    return [_fill(row, plan, folder, setting) for row, plan in zip(rows, plans, strict=True)]


def write(folder: str | Path, compared: list[dict[str, Any]]) -> str:
    """Write table.json, table.md and table.html, each whole or not at all; to be called on one rank.

    Returns:
        the Markdown, and where the files are, for the terminal.
    """
    folder = Path(folder)
    content = {"kind": "tokenizer-comparison", "created_utc": environment.now(), "rows": compared}
    written = report.write_results(folder / "table.json", content)
    text = table_page.markdown(written["rows"])
    report.write_atomically(folder / "table.md", text)
    report.write_atomically(folder / "table.html", table_page.render(written["rows"], written["created_utc"]))
    return f"{text}\ntable.json, table.md and table.html in {folder}"


def _plan(rows: list[Row], folder: Path, checkpoints: Path, setting: Setting | None) -> list[_Plan]:
    earlier = _earlier_results(folder)
    return [_plan_row(row, earlier, folder, checkpoints, setting) for row in rows]


def _plan_row(
    row: Row, earlier: list[tuple[Path, dict[str, Any]]], folder: Path, checkpoints: Path, setting: Setting | None
) -> _Plan:
    if row.never_released:
        return _Plan("publish", "its weights were never released")
    if row.checkpoint is None:
        return _Plan("publish", "its row names no checkpoint file")
    path = checkpoints / row.checkpoint
    if not path.is_file():
        path = None
    try:
        key = _key(row, path, setting)
    except Exception as error:  # an unreadable file or unusable images are this row's error, not the table's
        return _Plan("fail", _one_line(error))
    for found, results in earlier:
        if _fits(results, row, key, setting):
            return _Plan("reuse", results=found)
    if row.family is None:
        return _Plan("publish", "its family of tokenizers cannot be loaded yet")
    if path is None:
        return _Plan("publish", f"{row.checkpoint} is not in {checkpoints}")
    if row.family not in tokenizers.available():
        reason = f"no tokenizer family is called {row.family!r}; available: {', '.join(tokenizers.available())}"
        return _Plan("fail", reason)
    if setting is None:
        return _Plan("publish", "not evaluated: no images were given")
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{Path(row.checkpoint).stem}-{row.side or 'native'}-{row.protocol.name}-{digest}"
    return _Plan("evaluate", results=folder / "rows" / name / "results.json", checkpoint=path)


def _key(row: Row, path: Path | None, setting: Setting | None) -> dict[str, Any]:
    """What an earlier result must share with a row; what cannot be known here is left out."""
    key: dict[str, Any] = {"protocol": json.loads(json.dumps(row.protocol.as_dict())), "image_size": row.side}
    if path is not None:
        key["sha256"] = weights.sha256_of(path)
    if setting is not None:
        dataset, facts = setting.images(row.protocol.resize, row.side)
        limit = setting.loading.limit
        key["fingerprint"] = [facts["fingerprint"], facts["fingerprint_mode"]]
        key["subset"] = subset_suffix(limit).lstrip("_") if limit is not None and limit < len(dataset) else None
    return key


def _fits(results: dict[str, Any], row: Row, key: dict[str, Any], setting: Setting | None) -> bool:
    """Whether an earlier result is what an evaluation of the row would give now."""
    model, dataset = results["model"], results["dataset"]
    # Results older than the field `precision` are of float32.
    protocol = {"precision": "fp32", **results["protocol"]}
    same = {
        "protocol": {name: value for name, value in protocol.items() if name in key["protocol"]},
        "image_size": results["protocol"]["image_size"],
        "sha256": model["checkpoint_sha256"],
        "fingerprint": [dataset["fingerprint"], dataset["fingerprint_mode"]],
        "subset": results["subset"],
    }
    if any(same[name] != value for name, value in key.items()):
        return False
    if "sha256" not in key and Path(model["checkpoint_path"]).name != row.checkpoint:
        return False
    if results["status"] != "ok" and setting is not None and setting.check == "stop":
        return False
    # A figure that lacked its network's weights is made up for once they are here, if the row can be evaluated.
    can_evaluate = setting is not None and "sha256" in key
    return not (can_evaluate and any(map(_have_come, results["metrics_absent"].values())))


def _have_come(reason: str) -> bool:
    """Whether the weight files that a reason for an absent figure names are on this machine by now."""
    names = [name for name in weights.KNOWN if name in reason]
    try:
        return bool(names) and all(weights.find(name) for name in names)
    except weights.WeightsUnavailable:
        return False


def _earlier_results(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every results.json below a folder that this version reads, newest first."""
    found = []
    for path in folder.rglob("results.json"):
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            if results["schema_version"] == report.SCHEMA_VERSION and results["kind"] == "tokenizer-reconstruction":
                found.append((path, results))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is left out: it cannot be read (%r)", path, error)
    return sorted(found, key=lambda item: item[1]["created_utc"], reverse=True)


def _fill(row: Row, plan: _Plan, folder: Path, setting: Setting | None) -> dict[str, Any]:
    """Carry out a row's plan; under DDP every rank evaluates, and rank 0 alone has the figures."""
    if plan.action == "evaluate":
        plan = _evaluate(row, plan, setting)
    filled = {
        **{f.name: getattr(row, f.name) for f in fields(Row) if f.name not in ("protocol", "published", "weights")},
        "protocol": row.protocol.name,
        "weights_used": row.protocol.weights,
        "state": {"reuse": "reused", "evaluate": "evaluated", "publish": "published", "fail": "failed"}[plan.action],
        "figures": {name: _published(row, name) for name in FIGURES},
        "notes": [],
        "error": plan.reason if plan.action == "fail" else None,
        "results": None,
    }
    if plan.action == "publish":
        filled["notes"].append(plan.reason)
    if plan.action in ("reuse", "evaluate") and rank() == 0:
        _add_measured(filled, json.loads(plan.results.read_text(encoding="utf-8")))
        filled["results"] = plan.results.relative_to(folder).as_posix()
    if row.remark and any(figure["source"] == "published" for figure in filled["figures"].values()):
        filled["notes"].append(f"published: {row.remark}")
    return filled


def _evaluate(row: Row, plan: _Plan, setting: Setting) -> _Plan:
    """Measure a row and write its files; what goes wrong becomes the row's."""
    try:
        meant = replace(setting, allow_cross_resolution=setting.allow_cross_resolution or row.cross_resolution)
        run = evaluate_checkpoint(plan.checkpoint, row.family, row.protocol, row.side, meant)
        if rank() == 0:
            report.write(plan.results.parent, run, row.method, row.train_data)
    except Exception as error:
        # Of several ranks only errors that all of them meet alike may pass: the next row begins together.
        if world_size() > 1 and not isinstance(error, SanityError | ValueError):
            raise
        logger.error("%s (%s) failed: %s", row.method, row.checkpoint, error)
        return replace(plan, action="fail", reason=_one_line(error))
    return plan


def _published(row: Row, name: str) -> dict[str, Any]:
    value = row.published.get(name)
    return {"value": value, "source": None if value is None else "published", "name": name}


def _add_measured(filled: dict[str, Any], results: dict[str, Any]) -> None:
    """Put measured figures in the place of published ones, each under the name it has in results.json."""
    protocol, model = results["protocol"], results["model"]
    suffix = f"_{results['subset']}" if results["subset"] else ""
    names = {"rfid": protocol["rfid"], "psnr": protocol["psnr"], "codebook_utilization": "codebook_utilization"}
    for figure, name in names.items():
        value = results["metrics"].get(f"{name}{suffix}")
        if value is not None:
            published = filled["figures"][figure]["value"]
            filled["figures"][figure] = {
                **{"value": value, "source": "measured", "name": f"{name}{suffix}", "published": published}
            }
    tokens = results["tokens_per_image"]
    measured = {"codebook_size": model["codebook_size"], "tokens": "x".join(map(str, tokens)) if tokens else "varies"}
    for name, value in measured.items():
        if filled[name] != value:
            filled["notes"].append(f"{name.replace('_', ' ')} is {value}, the table's file says {filled[name]}")
            filled[name] = value
    filled["measured"] = {
        "status": results["status"],
        "num_images": results["num_images"],
        "protocol_num_images": protocol["num_images"],
        "checkpoint_sha256": model["checkpoint_sha256"],
        "fingerprint": results["dataset"]["fingerprint"],
        "created_utc": results["created_utc"],
    }
    if protocol.get("cross_resolution"):
        filled["notes"].append(f"cross-resolution: trained at {model['train_image_size']}")
    filled["notes"] += [f"{name} was left out: {reason}" for name, reason in results["metrics_absent"].items()]
    filled["notes"] += [f"check failed: {error}" for error in results["sanity"].get("errors", [])]


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
