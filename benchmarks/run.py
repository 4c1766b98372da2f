"""Measure sections and write benchmark.json and benchmark.md.

python -m benchmarks.run --output outputs/benchmark               # a GPU at full sizes, else small ones on the CPU
python -m benchmarks.run --output outputs/benchmark --only entropy,start_up

A section is a module of this folder with `TITLE` and `measure(settings)`, which yields its rows. Files are written
after every row: a run may be interrupted at any time. Sections of an earlier run stay until they are measured again.
"""

import argparse
import gc
import importlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.settings import Row, Settings
from benchmarks.subjects import PUBLISHED
from open_magvit2.common.files import write_atomically

logger = logging.getLogger(__name__)

SECTIONS = (
    "entropy",
    "training_step",
    "generator_step",
    "precisions",
    "largest_batch",
    "evaluating",
    "tokenizing",
    "sampling",
    "data_loading",
    "start_up",
    "loading",
)
_STAMP = ("table", "device", "torch", "date")  # equal in all rows of a section: written above its tables


def run(settings: Settings, output: Path, sections: Sequence[str] = SECTIONS) -> list[str]:
    """Measure sections and write them into a folder; a section that fails carries its error and stops no other.

    Returns:
        names of the sections that failed.
    """
    path, failed = output / "benchmark.json", []
    content = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    for name in sections:
        logger.info("measuring %s", name)
        for section in measure(name, settings):
            content["sections"] = {**content["sections"], name: section}
            write_atomically(path, json.dumps(content, indent=1) + "\n")
            write_atomically(output / "benchmark.md", markdown(content["sections"]))
        if section["error"]:
            failed.append(name)
        gc.collect()
        if settings.device.type == "cuda":
            torch.cuda.empty_cache()
    return failed


def measure(name: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """One section, with the machine it was measured on, after each row and at the end."""
    module = importlib.import_module(f"benchmarks.{name}")
    described, start = machine.describe(settings.device), time.monotonic()
    stamp = {"device": described["device"], "torch": described["versions"]["torch"], "date": described["started_utc"]}
    rows: list[Row] = []

    def section(error: str | None) -> dict[str, Any]:
        return {
            "title": module.TITLE,
            "rows": rows,
            "error": error,
            "full": settings.full,
            "repeats": settings.repeats,
            "wall_seconds": round(time.monotonic() - start, 1),
            "machine": described,
        }

    error = None
    try:
        for row in module.measure(settings):
            rows.append({**row, **stamp})
            yield section("interrupted after these rows")
    except Exception as reason:  # of any kind: the other sections of a run of hours are kept
        logger.exception("section %s failed", name)
        error = f"{type(reason).__name__}: {reason}"
    yield section(error)


def markdown(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """All sections as Markdown tables, each under the machine it was measured on."""
    lines = ["# Benchmark", ""]
    for section in sections.values():
        on = section["machine"]
        sizes = "full" if section["full"] else "small"
        lines += [
            f"## {section['title']}",
            "",
            f"{on['device']}; torch {on['versions']['torch']}; {on['started_utc']}; load {on['load_average'][0]:.1f}; "
            f"{sizes} sizes, medians of {section['repeats']}; {section['wall_seconds']:.0f} s.",
            "",
            *([f"**Failed: {section['error']}**", ""] if section["error"] else []),
        ]
        for title in dict.fromkeys(row["table"] for row in section["rows"]):
            lines += [f"### {title}", "", table([row for row in section["rows"] if row["table"] == title])]
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; a column that only some rows have is "-" in the others."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in _STAMP))
    lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(value: Any) -> str:
    """A value as a table shows it: three significant digits, "-" for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", required=True, type=Path, help="folder; sections measured there before stay until measured again")
    add("--only", metavar="SECTIONS", help=f"comma-separated, of {', '.join(SECTIONS)}; default: all")
    add("--device", help="cpu, cuda or cuda:1; default: a GPU if there is one")
    add("--size", choices=["small", "full"], help="default: full on a GPU, small (minutes on two cores) on a CPU")
    add("--models", nargs="+", choices=[case.name for case in PUBLISHED], help="at full size; default: all")
    add("--batch", type=int, help="images of a training step; default: 8, small: 2")
    add("--tokens", nargs="+", type=int, metavar="N", help="of the section entropy")
    add("--bits", nargs="+", type=int, metavar="K", help="of the section entropy: 2^K codes")
    add("--repeats", type=int, help="measurements behind each median; default: 5 at full size, 3 at small")
    add("--images", type=Path, help="folder of photos for loading and tokenizing; default: images drawn by code")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        chosen = SECTIONS if args.only is None else [name.strip() for name in args.only.split(",")]
        if unknown := sorted(set(chosen) - set(SECTIONS)):
            raise ValueError(f"no section is called {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
        device = machine.chosen_device(args.device)
        full = device.type == "cuda" if args.size is None else args.size == "full"
        repeats = (5 if full else 3) if args.repeats is None else args.repeats
        options = {name: getattr(args, name) for name in ("models", "batch", "tokens", "bits", "images")}
        settings = Settings(device, full, repeats, **options)
    except ValueError as error:
        parser.error(str(error))
    failed = run(settings, args.output, chosen)
    print(f"written to {args.output}: benchmark.json and benchmark.md; failed sections: {failed or 'none'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
