"""Runs the sections of the benchmark one after the other, and writes what there is after each.

A section is a module of this folder with `TITLE` and `measure(settings)`, which gives its rows: all in a list, or one
by one, where they take long. The latter are written one by one as well, so that a run may be cut off at any time.
"""

import importlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from open_magvit2.benchmark import machine, pictures, report
from open_magvit2.benchmark.failures import release
from open_magvit2.benchmark.settings import Row, Settings
from open_magvit2.common import environment

logger = logging.getLogger(__name__)

SECTIONS = (
    "entropy",
    "training_step",
    "precisions",
    "largest_batch",
    "at_largest_batch",
    "growth",
    "flops",
    "profiling",
    "scaling",
    "evaluating",
    "tokenizing",
    "data_loading",
    "start_up",
)


def choose(only: str | None) -> list[str]:
    """The sections named in a comma-separated list, or all, in the order of `SECTIONS`.

    Raises:
        ValueError: naming the sections there are.
    """
    wanted = SECTIONS if only is None else [name.strip() for name in only.split(",")]
    unknown = sorted(set(wanted) - set(SECTIONS))
    if unknown:
        raise ValueError(f"no section is called {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in wanted]


def run(settings: Settings, output: Path, sections: Sequence[str] = SECTIONS) -> list[str]:
    """Measure, and write benchmark.json, benchmark.md and pictures into a folder after every section.

    Sections already in the folder's benchmark.json stay there, each with the machine and date it was measured on, until
    they are measured again. A section that fails carries its error and does not stop the others.

    Args:
        settings: device, sizes, repeats.
        output: the folder.
        sections: names, of `SECTIONS`.

    Returns:
        names of the sections that failed.

    Raises:
        ValueError: as `measured_before`.
    """
    content, path = measured_before(output), output / "benchmark.json"
    failed = []
    for name in sections:
        logger.info("measuring %s", name)
        for found in _measure(name, settings):
            kept = {key: content["sections"].get(key) for key in SECTIONS} | {name: found}
            content["sections"] = {key: section for key, section in kept.items() if section}
            report.write_atomically(path, json.dumps(content, indent=1) + "\n")
            report.write_atomically(output / "benchmark.md", report.markdown(content["sections"]))
        if found["error"]:
            failed.append(name)
        for file, drawing in pictures.draw(content["sections"]).items():
            report.write_atomically(output / file, drawing)
        release()
    return failed


def measured_before(output: Path) -> dict[str, Any]:
    """What a folder's benchmark.json holds; the folder is made if there is none.

    Raises:
        ValueError: if the folder cannot be made or its benchmark.json is none of ours.
    """
    path = output / "benchmark.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else '{"sections": {}}'
        report.write_atomically(path, text)  # whether that works shows here, and not after the first section
        content = json.loads(text)
    except OSError as error:
        raise ValueError(f"cannot write into {output}: {error}; choose another output") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or choose another output") from error
    sections = content.get("sections") if isinstance(content, dict) else None
    if not isinstance(sections, dict) or not all(
        isinstance(section, dict) and set(section) >= report.FIELDS for section in sections.values()
    ):
        raise ValueError(f"{path} was not written by this benchmark: remove it, or choose another output")
    return content


def _measure(name: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """One section with everything that tells what its rows were measured on, as it is after each row and at the end."""
    module = importlib.import_module(f"{__package__}.{name}")
    described = machine.describe(settings.device)
    stamp = {
        "device": described["device"],
        "torch": described["versions"]["torch"],
        "date": described["started_utc"],
    }
    start = time.monotonic()
    rows: list[Row] = []

    def section(error: str | None) -> dict[str, Any]:
        return {
            "title": module.TITLE,
            "rows": rows,
            "error": error,
            "full": settings.full,
            "repeats": settings.repeats,
            "wall_seconds": round(time.monotonic() - start, 1),
            "finished_utc": environment.now(),
            "machine": described,
        }

    error = None
    try:
        found = module.measure(settings)
        for row in found:
            rows.append({**row, **stamp})
            if not isinstance(found, list):
                yield section("cut off after these rows")
    except Exception as reason:  # of whatever kind: a benchmark of hours keeps the other sections and says which failed
        logger.exception("section %s failed", name)
        error = f"{type(reason).__name__}: {reason}"
    yield section(error)
