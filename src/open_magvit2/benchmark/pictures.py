"""Pictures of what was measured, for docs/performance.md, drawn from the rows of benchmark.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from open_magvit2.benchmark.drawing import COLOURS, Line, Panel, bar_chart, line_chart
from open_magvit2.benchmark.settings import Row


def draw(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """File names and drawings of the sections that are there and have something to show."""
    drawings = {
        "entropy.svg": ("entropy", _entropy),
        "step_memory.svg": ("training_step", _memory),
        "step_parts.svg": ("training_step", _parts),
        "profile.svg": ("profiling", _profile),
    }
    found = {}
    for file, (section, function) in drawings.items():
        rows = sections.get(section, {}).get("rows", [])
        drawing = function(rows) if rows else None
        if drawing:
            found[file] = drawing
    return found


def _on(rows: Sequence[Row]) -> str:
    """What was measured on what: the line below a title."""
    return f"{rows[0]['device']}; torch {rows[0]['torch']}; {rows[0]['date'][:10]}"


def _entropy(rows: Sequence[Row]) -> str:
    """Time and memory over the tokens, a colour for every K."""
    unit = next(name for name in rows[0] if name.startswith("exact [") and "MiB" not in name)[len("exact ") :]
    bits = list(dict.fromkeys(row["K"] for row in rows))
    panels = []
    for title, column in (("time " + unit, unit), ("peak memory [MiB]", "[MiB]")):
        lines = []
        for kind in ("exact", "softmax"):
            for number, k in enumerate(bits):
                values = [(row["N"], row[f"{kind} {column}"]) for row in rows if row["K"] == k]
                points = [(n, value) for n, value in values if isinstance(value, float)]
                if points:
                    colour = COLOURS[number % len(COLOURS)]
                    lines.append(Line(f"{kind}, K = {k}", points, colour, dashed=kind == "softmax"))
        panels.append(Panel(title, "tokens N", lines))
    return line_chart("Entropy penalty, forward and backward", panels, _on(rows))


def _memory(rows: Sequence[Row]) -> str | None:
    """Peak memory of a step, by what allocated it."""
    chosen = _first_table([row for row in rows if row["table"].startswith("Peak memory")])
    if not chosen:
        return None
    parts = [name for name in chosen[0] if name.endswith("[MiB]") and name != "total [MiB]"] or ["total [MiB]"]
    bars = {row["step"]: {name.removesuffix(" [MiB]"): row[name] for name in parts} for row in chosen}
    return bar_chart(chosen[0]["table"], bars, "MiB", _on(chosen))


def _parts(rows: Sequence[Row]) -> str | None:
    """The time of a step's parts, ours and the baseline's."""
    chosen = _first_table([row for row in rows if row["table"].startswith("Parts of a step")])
    if not chosen:
        return None
    columns = {kind: next(name for name in chosen[0] if name.startswith(f"{kind} [")) for kind in ("baseline", "ours")}
    parts = [row for row in chosen if row["part"] != "sum of parts"]
    bars = {kind: {row["part"]: row[column] for row in parts} for kind, column in columns.items()}
    unit = columns["ours"].removeprefix("ours [").removesuffix("]")
    return bar_chart(chosen[0]["table"], bars, unit, _on(chosen))


def _profile(rows: Sequence[Row]) -> str | None:
    """The most expensive operators."""
    if "ms" not in rows[0]:
        return None  # it says why there are none
    bars = {f"{row['operator']} x {row['calls']:,}": {"time": row["ms"]} for row in rows}
    return bar_chart("Profile: " + rows[0]["table"], bars, "ms", _on(rows))


def _first_table(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["table"] == rows[0]["table"]]
