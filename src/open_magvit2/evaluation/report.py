"""results.json, a Markdown row and an HTML page of an evaluation, each written whole or not at all."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open_magvit2.evaluation import beside, gallery, page
from open_magvit2.evaluation.results import Run

SCHEMA_VERSION = 1


def write_results(path: Path | str, results: dict[str, Any]) -> dict[str, Any]:
    """Write results as JSON, atomically, with null for what is not a number.

    JSON has no NaN and no infinity (the PSNR of a perfect reconstruction). Such a value becomes null, and its name and
    value are added to `results["sanity"]["warnings"]`: nothing vanishes silently.

    Args:
        path: the file; its folder is made if need be.
        results: nested dictionaries and lists of plain values, tensors and paths.

    Returns:
        What was written, as plain values.
    """
    replaced: list[tuple[str, str]] = []
    plain = _plain({"schema_version": SCHEMA_VERSION, **results}, "", replaced)
    if replaced:
        plain.setdefault("sanity", {}).setdefault("warnings", []).extend(
            f"{name} is {value}: written as null" for name, value in replaced
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")
    return plain


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old or the new content and nothing between."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # temporary files are private to the user; results are not
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write(folder: Path | str, run: Run, method: str, train_data: str = "-") -> str:
    """Write results.json, per_image.npz, row.md and report.html into a folder; to be called on one rank.

    Returns:
        a summary for the terminal: the figures, and where the files are.
    """
    folder = Path(folder)
    results = write_results(folder / "results.json", run.results)
    row = markdown_row(results, method, train_data)
    write_atomically(folder / "row.md", f"{HEADER}\n{row}\n")
    rows = run.evaluation.rows
    np.savez_compressed(folder / "per_image.npz", **{name: column.numpy() for name, column in rows.items()})
    shown = gallery.pictures(run.tokenizer, run.dataset, rows, run.device)
    write_atomically(folder / "report.html", page.render(results, method, rows, run.evaluation.details, shown))
    width = max(map(len, results["metrics"]), default=0)
    lines = [
        f"{name:{width}}  {'-' if value is None else f'{value:.6g}'}" for name, value in results["metrics"].items()
    ]
    return "\n".join([*lines, row, f"results.json, per_image.npz, row.md and report.html in {folder}"])


HEADER = (
    "| Method | Token Type | #Tokens | Train Data | Codebook Size | rFID | PSNR | Codebook Utilization | Checkpoint |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def markdown_row(results: dict[str, Any], method: str, train_data: str = "-", token_type: str = "2D") -> str:
    """One row under `HEADER`, in the field's format, of the figures the protocol quotes.

    Figures over anything but the protocol's number of images say so, the PSNR which one it is, and the method's name
    is followed by a failed check and a changed protocol.

    Args:
        results: as `write_results` returns them.
        method: the row's name.
        train_data: what the tokenizer was trained on.
        token_type: "2D" for a grid.
    """
    protocol, model = results["protocol"], results["model"]
    suffix = f"_{results['subset']}" if results["subset"] else ""

    def figure(name: str | None, form: str, kind: str | None = None) -> str:
        value = results["metrics"].get(f"{name}{suffix}") if name else None
        return "-" if value is None else form.format(value) + in_brackets(kind, beside.images(results))

    def in_brackets(*texts: str | None) -> str:
        said = [text for text in texts if text]
        return f" ({', '.join(said)})" if said else ""

    rfid, psnr = protocol["rfid"], protocol["psnr"]
    tokens = results["tokens_per_image"]
    cells = [
        method + in_brackets(*beside.doubts(results)),
        token_type,
        "x".join(map(str, tokens)) if tokens else "varies",
        train_data,
        f"{model['codebook_size']:,}",
        figure(rfid, "{:.2f}"),
        figure(psnr, "{:.2f}", psnr and beside.psnr_kind(psnr)),
        figure("codebook_utilization", "{:.1%}").replace("%", " %"),
        Path(model["checkpoint_path"]).name + trained_elsewhere(results),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def trained_elsewhere(results: dict[str, Any]) -> str:
    """What to say after the name of a tokenizer's file where it was trained at another size; else nothing."""
    if not results["protocol"].get("cross_resolution"):
        return ""
    return f" (trained at {results['model']['train_image_size']})"


def _plain(value: Any, name: str, replaced: list[tuple[str, str]]) -> Any:
    """Plain JSON values of anything results hold; non-finite numbers become None and are noted by name."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, f"{name}.{k}".lstrip("."), replaced) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}[{i}]", replaced) for i, v in enumerate(value)]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        replaced.append((name, str(value)))
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"results[{name!r}] is a {type(value).__name__}, which results.json cannot hold")
