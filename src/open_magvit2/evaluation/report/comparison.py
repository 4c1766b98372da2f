"""A comparison beyond the table of the field: further figures, measured against published, and CSV."""

import math
from typing import Any, NamedTuple

from open_magvit2.evaluation.report.kinds import Column, Kind
from open_magvit2.evaluation.report.per_image import text

# Columns of what a tokenizer is and costs; further figures are the kind's.
_COSTS = (
    Column("bits_per_pixel", "Bits per pixel", "{:.4f}"),
    Column("num_params", "Parameters", "{:,}"),
    Column("images_per_s", "Images/s", "{:.2f}"),
)


class Pair(NamedTuple):
    """A figure of a row under the row's own protocol and, where it was measured, under the common one."""

    entry: dict[str, Any]
    column: Column
    own: dict[str, Any]  # cell of the row's "figures"
    common: dict[str, Any] | None

    @property
    def published(self) -> float | None:
        """The authors' figures."""
        return self.own["published"] if self.own["source"] == "measured" else self.own["value"]

    @property
    def measured(self) -> float | None:
        """Under the row's own protocol."""
        return self.own["value"] if self.own["source"] == "measured" else None

    @property
    def difference(self) -> float | None:
        """Measured minus published, under the row's own protocol."""
        return None if None in (self.measured, self.published) else self.measured - self.published


def standard_error(cell: dict[str, Any] | None, form: str) -> str:
    """The standard error over images in words: a figure of a set, as rFID, has none."""
    if cell is None or cell["source"] != "measured":
        return "-"
    error = cell.get("standard_error")
    return "not known" if error is None else form.format(error).replace("%", " %")


def number(value: float | None, form: str, sign: bool = False) -> str:
    """A figure as its column writes it, or a dash."""
    if value is None:
        return "-"
    return (form.replace("{:", "{:+") if sign else form).format(value).replace("%", " %")


def pairs(kind: Kind, rows: list[dict[str, Any]]) -> list[Pair]:
    """The figures of the rows that were measured under at least one protocol."""
    found = []
    for entry in rows:
        common = (entry.get("common") or {}).get("figures", {})
        for column in (*kind.figures, *kind.further):
            own = entry["figures"].get(column.name)
            other = common.get(column.name)
            other = other if other and other["source"] == "measured" else None
            if own and (other or own.get("published") is not None) and (own["source"] == "measured" or other):
                found.append(Pair(entry, column, own, other))
    return found


def further(kind: Kind, rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the figures that the table of the field leaves out; columns without a value are not there."""
    names = {column.name for column in kind.further}

    def cell(entry: dict[str, Any], column: Column) -> str:
        words = number(_values(kind, entry).get(column.name), column.form)
        is_published = column.name in names and entry["figures"].get(column.name, {}).get("source") == "published"
        return f"{words} (published)" if is_published else words

    def has_any(entry: dict[str, Any]) -> bool:
        return "measured" in entry or any(entry["figures"].get(n, {}).get("value") is not None for n in names)

    called = names_of_rows(rows)
    rows = [entry for entry in rows if has_any(entry)]
    shown = [c for c in (*kind.further, *_COSTS) if any(_values(kind, entry).get(c.name) is not None for entry in rows)]
    cells = [
        [called[id(entry)], str(entry["facts"].get("tokens", "-")), *(cell(entry, column) for column in shown)]
        for entry in rows
    ]
    return ["Method", "#Tokens", *(column.title for column in shown)], cells


def names_of_rows(rows: list[dict[str, Any]]) -> dict[int, str]:
    """The method of each row, by the row's id; where others have its method and tokens, with what tells them apart."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in rows:
        groups.setdefault((entry["method"], str(entry["facts"].get("tokens"))), []).append(entry)
    named = {}
    for (method, _), group in groups.items():
        marks = [[str(entry[field]) for entry in group] for field in ("checkpoint", "image_size", "protocol")]
        marks.append([", ".join(all_three) for all_three in zip(*marks, strict=True)])
        telling = next((mark for mark in marks if len(set(mark)) == len(group)), marks[-1])
        for entry, mark in zip(group, telling, strict=True):
            named[id(entry)] = method if len(group) == 1 else f"{method} ({mark})"
    return named


def bits_per_pixel(entry: dict[str, Any]) -> float | None:
    """Of the tokens: number x log2(codebook size) / pixels; None for continuous latents, own sizes, unknown facts."""
    tokens, size = entry["facts"].get("tokens"), entry["facts"].get("codebook_size")
    sides = entry.get("measured", entry)["image_size"]
    parts = str(tokens).split("x")
    if not all(part.isdigit() for part in parts) or not isinstance(size, int) or sides is None:
        return None
    pixels = math.prod(sides) if isinstance(sides, list | tuple) else sides**2
    return math.prod(map(int, parts)) * math.log2(size) / pixels


def to_csv(kind: Kind, rows: list[dict[str, Any]]) -> str:
    """A line for each row, values unrounded; for each figure its value, which metric it is, where it is from, and more.

    Every metric of the records follows under its own name, as in `metrics.psnr_global`.
    """
    figures, parts = (*kind.figures, *kind.further), ("", "_metric", "_source", "_published", "_standard_error")
    metrics = dict.fromkeys(name for entry in rows for name in entry.get("measured", {}).get("metrics", {}))
    head = ["method", "image_size", *(c.name for c in kind.facts), "protocol", "state", "num_images"]
    head += [f"{c.name}{part}" for c in figures for part in (*parts, "_common_protocol")]
    head += [*(c.name for c in _COSTS), *(f"metrics.{name}" for name in metrics), "checkpoint", "error"]
    lines: list[list[object]] = [head]
    for entry in rows:
        values, measured = _values(kind, entry), entry.get("measured", {})
        facts = [entry["facts"].get(column.name) for column in kind.facts]
        line = [entry["method"], entry["image_size"], *facts, entry["protocol"], entry["state"]]
        line += [measured.get("num_images")]
        common = (entry.get("common") or {}).get("figures", {})
        for column in figures:
            cell, other = entry["figures"].get(column.name, {}), common.get(column.name, {})
            is_measured = cell.get("source") == "measured"
            line += [cell.get("value"), cell["name"] if is_measured else None, cell.get("source")]
            line += [cell.get("published") if is_measured else cell.get("value"), cell.get("standard_error")]
            line += [other["value"] if other.get("source") == "measured" else None]
        line += [*(values.get(c.name) for c in _COSTS), *(measured.get("metrics", {}).get(name) for name in metrics)]
        lines.append([*line, entry["checkpoint"], entry["error"]])
    return text(lines)


def _values(kind: Kind, entry: dict[str, Any]) -> dict[str, float | None]:
    """The kind's further figures and the costs of a row, by name."""
    measured = entry.get("measured", {})
    figures = {c.name: entry["figures"].get(c.name, {}).get("value") for c in kind.further}
    costs = {"bits_per_pixel": bits_per_pixel(entry)}
    costs |= {name: measured.get(name) for name in ("num_params", "images_per_s")}
    return {**figures, **costs}
