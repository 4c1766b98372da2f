"""A record as one Markdown row, and a comparison as Markdown tables, in the format of the field."""

from typing import Any

from open_magvit2.evaluation.image_size import from_plain, text
from open_magvit2.evaluation.report import comparison as tables
from open_magvit2.evaluation.report.kinds import KINDS, QUALIFIERS, Kind, checkpoint_name, figure_name
from open_magvit2.evaluation.report.record import doubts, figure, image_count


def header(kind: Kind) -> str:
    """The heading of rows of a kind, two lines."""
    return _line(kind.titles) + "\n" + _line(["---"] * len(kind.titles))


def row(record: dict[str, Any]) -> str:
    """A record as one row under `header`, with the figures that its protocol quotes.

    Figures over anything but the protocol's number of images say so, a PSNR which one it is, and the method's name is
    followed by a failed check and a changed protocol.

    Args:
        record: as `record.write_json` returns it.
    """
    kind = KINDS[record["kind"]]
    facts = kind.describe(record)
    cells = [f"{record['model']['method']}{_in_brackets(*doubts(record))}"]
    cells += [column.written(facts.get(column.name)) for column in kind.facts]
    for column in kind.figures:
        name = figure_name(column, record["protocol"])
        value = figure(record, name)[1] if name else None
        note = _in_brackets(QUALIFIERS.get(name), image_count(record))
        cells.append("-" if value is None else column.form.format(value).replace("%", " %") + note)
    return _line([*cells, checkpoint_name(record)])


def comparison(kind: Kind, rows: list[dict[str, Any]]) -> str:
    """A table for each size of images, and below it what must be known of single rows.

    Args:
        kind: of the rows.
        rows: as `table.compare` gives them.
    """
    parts = [legend(rows)]
    for size, group in by_size(rows).items():
        lines = [header(kind)]
        for entry in group:
            figures = []
            for column in kind.figures:
                value, mark = figure_with_mark(entry, column.name, column.form)
                value = f"**{value}**" if mark.startswith("measured") else value
                figures.append(f"{value} ({mark})" if mark else value)
            lines.append(_line([*plain_cells(kind, entry), *figures, checkpoint_cell(entry)]))
        known = [(entry, texts(entry)) for entry in group if texts(entry)]
        names = tables.names_of_rows(rows)
        notes = [
            f"- {', '.join(filter(None, [names[id(entry)], entry['facts'].get('tokens')]))}: {'; '.join(words)}"
            for entry, words in known
        ]
        parts += [f"## {size}", "\n".join(lines), "\n".join(notes)]
    parts += further_tables(kind, rows)
    if reasons := left_out(rows):
        parts += ["## Left out", "\n".join(f"- {reason}" for reason in reasons)]
    return "\n\n".join(part for part in parts if part) + "\n"


def further_tables(kind: Kind, rows: list[dict[str, Any]]) -> list[str]:
    """Measured against published with standard errors, and the figures that the table of the field does not show."""
    parts = []
    if against := comparison_of(kind, rows):
        titles, cells = against
        lines = [_line(titles), _line(["---"] * len(titles)), *map(_line, cells)]
        parts += ["## Measured and published", "\n".join(lines)]
    titles, cells = tables.further(kind, rows)
    if cells:
        lines = [_line(titles), _line(["---"] * len(titles)), *map(_line, cells)]
        parts += ["## Further figures", "\n".join(lines)]
    return parts


def comparison_of(kind: Kind, rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]] | None:
    """Titles and cells of published and measured figures, under the rows' own protocols and the common one; or None."""
    pairs = tables.pairs(kind, rows)
    if not pairs:
        return None
    common = next((entry["common"]["protocol"] for entry in rows if entry.get("common")), None)
    titles = ["Method", "#Tokens", "Figure", "Protocol", "Published", "Measured", "Difference", "Standard error"]
    names, cells = tables.names_of_rows(rows), []
    for entry, column, own, other in pairs:
        pair, form = tables.Pair(entry, column, own, other), column.form
        values = [tables.number(value, form) for value in (pair.published, pair.measured)]
        values += [tables.number(pair.difference, form, sign=True), tables.standard_error(own, form)]
        if common is not None:
            value = None if other is None else other["value"]
            values += [tables.number(value, form), tables.standard_error(other, form)]
        words = [names[id(entry)], str(entry["facts"].get("tokens", "-")), column.title]
        words.append(f"{entry['protocol']}{_in_brackets(*_limits(entry))}")
        cells.append([*words, *values])
    return [*titles, *([] if common is None else [f"Measured, {common}", f"Standard error, {common}"])], cells


def left_out(rows: list[dict[str, Any]]) -> list[str]:
    """Why rows lack figures, each reason once with the names of the metrics."""
    reasons: dict[str, list[str]] = {}
    for entry in rows:
        for name, reason in entry.get("measured", {}).get("metrics_absent", {}).items():
            reasons.setdefault(reason, []).append(name)
    return [f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]


def legend(rows: list[dict[str, Any]]) -> str:
    """Number of rows measured here, and how they differ from the published ones."""
    number = sum("measured" in entry for entry in rows)
    words = (
        f"{number} of {len(rows)} rows measured here. Figures marked published are their authors', and protocols of "
        "different authors differ: such rows are not strictly comparable."
    )
    for size, group in by_size(rows).items():
        measured = [entry["measured"] for entry in group if "measured" in entry]
        if len({(m["fingerprint"], m["num_images"]) for m in measured}) > 1:
            words += f" The rows measured at {size} are of different images."
    return words


def by_size(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the size of their images, "256 x 256", the order kept."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for entry in rows:
        grouped.setdefault(text(from_plain(entry["image_size"])), []).append(entry)
    return grouped


def plain_cells(kind: Kind, entry: dict[str, Any]) -> list[str]:
    """The cells of a row that hold no figure, without the checkpoint."""
    return [entry["method"], *(column.written(entry["facts"][column.name]) for column in kind.facts)]


def figure_with_mark(entry: dict[str, Any], name: str, form: str) -> tuple[str, str]:
    """(the figure, its mark): ("1.53", "published"), ("1.61", "measured, 96 images"), ("-", "")."""
    cell = entry["figures"][name]
    if cell["value"] is None:
        return "-", ""
    words = form.format(cell["value"]).replace("%", " %")
    if cell["source"] != "measured":
        return words, "published"
    qualifier = QUALIFIERS.get(cell["name"].removesuffix(f"_{entry['measured']['subset']}"))
    return words, ", ".join(filter(None, ["measured", qualifier, *_limits(entry)]))


def checkpoint_cell(entry: dict[str, Any]) -> str:
    """The file of a row, or why there is none."""
    name = "never released" if entry["never_released"] else entry["checkpoint"] or "-"
    return f"{name} (failed)" if entry["error"] else name


def texts(entry: dict[str, Any]) -> list[str]:
    """Notes on a row: its error, how it was measured and how far it is from the published figures."""
    words = [f"failed: {entry['error']}"] if entry["error"] else []
    if "measured" in entry:
        cells = {name: cell for name, cell in entry["figures"].items() if cell["source"] == "measured"}
        against = []
        for name, cell in cells.items():
            if cell.get("published") is not None:
                digits = 4 if name == "codebook_utilization" else 2
                difference = cell["value"] - cell["published"]
                against.append(f"{name} {cell['published']:.{digits}f} ({difference:+.{digits}f} here)")
        words += [f"published: {', '.join(against)}"] if against else []
        made_from = [", ".join(cell["name"] for cell in cells.values())]
        measured = entry["measured"]
        size = f" of {measured['num_params'] / 1e6:.2f} M parameters" if measured["num_params"] else ""
        made_from += [f"{measured['family']}{size}"] if measured["family"] else []
        made_from += [f"{measured['weights_used']} weights", f"file {measured['checkpoint_sha256'][:12]}"]
        words.append(f"{entry['state']} under the protocol {entry['protocol']} ({'; '.join(filter(None, made_from))})")
    return words + entry["notes"]


def _limits(entry: dict[str, Any]) -> list[str | None]:
    """Of how many images a row's measured figures are, if not of all, and that its first images look wrong."""
    measured = entry.get("measured")
    return [] if measured is None else [measured["images"], None if measured["status"] == "ok" else "check failed"]


def _in_brackets(*words: str | None) -> str:
    said = [word for word in words if word]
    return f" ({', '.join(said)})" if said else ""


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.splitlines()).replace("|", "\\|") for cell in cells) + " |"
