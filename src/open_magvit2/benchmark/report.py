"""What a benchmark found as Markdown tables, each under the machine it was measured on."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_magvit2.benchmark.settings import Row

_STAMP = ("table", "device", "torch", "date")  # the same in all rows of a section: said above its tables


# Of a section: what its part of the report is made of.
FIELDS = {"title", "rows", "error", "full", "repeats", "wall_seconds", "machine"}


def markdown(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """All sections, in their order."""
    return "\n".join(["# Benchmark", "", *(_section(section) for section in sections.values())])


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; a column that only some rows have is empty in the others."""
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


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _section(section: Mapping[str, Any]) -> str:
    on = section["machine"]
    time, load = on["started_utc"], on["load_average"][0]
    sizes = "full sizes" if section["full"] else "small sizes"
    cuda = f", CUDA {on['versions']['cuda']}" if on["versions"]["cudnn"] else ""
    lines = [
        f"## {section['title']}",
        "",
        f"{on['device']}; torch {on['versions']['torch']}{cuda}; {time}; load {load:.1f}; "
        f"{sizes}, {section['repeats']} repeats of what is timed; took {section['wall_seconds']:.0f} s.",
        "",
    ]
    if section["error"]:
        lines += [f"**Failed: {section['error']}**", ""]
    for title in dict.fromkeys(row["table"] for row in section["rows"]):
        if title != section["title"]:
            lines += [f"### {title}", ""]
        lines += [table([row for row in section["rows"] if row["table"] == title])]
    return "\n".join(lines)
