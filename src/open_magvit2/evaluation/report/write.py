"""The files of an evaluation and of a comparison, each written whole or not at all."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_magvit2.common import environment
from open_magvit2.common.files import write_atomically
from open_magvit2.evaluation.report import comparison, gallery, latex, markdown, page, per_image, sheet
from open_magvit2.evaluation.report.kinds import KINDS
from open_magvit2.evaluation.report.record import SCHEMA_VERSION, plain, write_json

if TYPE_CHECKING:
    from open_magvit2.evaluation.generation import GenerationRun
    from open_magvit2.evaluation.run import Run


def run_files(folder: Path | str, run: "Run") -> str:
    """Write results.json, row.md, report.html and the figures of images and classes; to be called on one rank.

    Returns:
        a summary for the terminal: the figures, and where the files are.
    """
    folder = Path(folder)
    record = plain(run.record)
    row = markdown.row(record)
    write_atomically(folder / "row.md", f"{markdown.header(KINDS[record['kind']])}\n{row}\n")
    rows = run.evaluation.rows
    columns = io.BytesIO()
    np.savez_compressed(columns, **{name: column.numpy() for name, column in rows.items()})
    write_atomically(folder / "per_image.npz", columns.getvalue())
    samples = run.evaluation.samples
    write_atomically(folder / "per_image.csv", per_image.per_image(rows, samples))
    write_atomically(folder / "per_class.csv", per_image.per_class(rows, samples))
    kept = io.BytesIO()
    same = gallery.evenly_spaced(run.tokenizer, run.dataset, run.device, run.evaluation.reconstructions)
    np.savez_compressed(kept, **same)
    write_atomically(folder / gallery.PICTURES, kept.getvalue())
    pictures = gallery.pictures(run.tokenizer, run.dataset, rows, run.device, run.evaluation.reconstructions)
    write_atomically(folder / "report.html", page.render(record, rows, run.evaluation.details, pictures))
    # Last: a table takes a row for finished that has its results, and links to its page.
    write_json(folder / "results.json", record)
    return _summary(record, row, f"results.json, per_image.csv, row.md and report.html in {folder}")


def generation_files(folder: Path | str, run: "GenerationRun") -> str:
    """Write results.json, row.md and report.html of generated images; to be called on one rank.

    Returns:
        a summary for the terminal.
    """
    folder = Path(folder)
    record = plain(run.record)
    row = markdown.row(record)
    write_atomically(folder / "row.md", f"{markdown.header(KINDS[record['kind']])}\n{row}\n")
    write_atomically(folder / "report.html", page.render(record, samples=run.pictures))
    # Last: a sweep takes a point for finished that has its results.
    write_json(folder / "results.json", record)
    return _summary(record, row, f"results.json, row.md and report.html in {folder}")


def sweep_files(folder: Path | str, sweep: dict[str, Any]) -> dict[str, Any]:
    """Write sweep.json and sweep.html; to be called on one rank.

    Args:
        folder: to write to.
        sweep: of `sweep.run`.

    Returns:
        the content of sweep.json.
    """
    folder = Path(folder)
    head = {"kind": "generation-sweep", "schema_version": SCHEMA_VERSION, "created_utc": environment.now()}
    content = write_json(folder / "sweep.json", {**head, **sweep})
    write_atomically(folder / "sweep.html", page.render_sweep(content))
    return content


def _summary(record: dict[str, Any], row: str, where: str) -> str:
    """The figures, the row and the files, for the terminal."""
    width = max(map(len, record["metrics"]), default=0)
    figures = {name: "-" if value is None else f"{value:.6g}" for name, value in record["metrics"].items()}
    return "\n".join([*(f"{name:{width}}  {value}" for name, value in figures.items()), row, where])


def table_files(folder: Path | str, rows: list[dict[str, Any]], kind: str = "reconstruction") -> str:
    """Write table.json, .md, .csv, .tex and .html; to be called on one rank.

    Args:
        folder: to write to.
        rows: as `table.compare` gives them.
        kind: of their records.

    Returns:
        the Markdown, and where the files are, for the terminal.
    """
    folder = Path(folder)
    content = {"kind": f"{kind}-comparison", "schema_version": SCHEMA_VERSION, "created_utc": environment.now()}
    content = write_json(folder / "table.json", {**content, "rows": rows})
    words = markdown.comparison(KINDS[kind], content["rows"])
    write_atomically(folder / "table.md", words)
    write_atomically(folder / "table.csv", comparison.to_csv(KINDS[kind], content["rows"]))
    write_atomically(folder / "table.tex", latex.comparison(KINDS[kind], content["rows"]))
    sheets = sheet.sheets(folder, content["rows"])
    html = page.render_table(KINDS[kind], content["rows"], content["created_utc"], sheets)
    write_atomically(folder / "table.html", html)
    return f"{words}\ntable.json, .md, .csv, .tex and .html in {folder}"
