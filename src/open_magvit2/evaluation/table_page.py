"""table.md and table.html: a comparison of tokenizers in which every figure says: measured, or published."""

from html import escape
from typing import Any

from open_magvit2.evaluation.page_style import STYLE
from open_magvit2.evaluation.report import HEADER

_COLUMNS = [cell.strip() for cell in HEADER.splitlines()[0].strip("|").split("|")]

_TABLE_STYLE = """
.comparison td:nth-child(2) { white-space: normal; }
.comparison td:last-child { color: inherit; overflow-wrap: anywhere; }
.comparison th { width: 9%; color: var(--soft); font-size: .8rem; overflow-wrap: normal; }
.comparison th:first-child { width: 24%; }
.comparison th:nth-child(2), .comparison th:nth-child(3) { width: 7%; }
.comparison th:last-child { width: 17%; }
.comparison td.figure { font-variant-numeric: tabular-nums; }
.comparison td.method { font-weight: 600; }
.comparison tr.failed td { border-left-color: var(--mark); }
.comparison .note { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; overflow-wrap: anywhere; }
.comparison .note.error { color: var(--mark); }
.mark { display: block; width: fit-content; font-size: .7rem; }
.mark.measured { padding: 0 6px; border-radius: 8px; background: var(--accent); color: var(--paper); }
.mark.published { color: var(--soft); }
.published.value { color: var(--soft); }
.measured.value { font-weight: 600; }
a { color: var(--accent); }
@media (min-width: 761px) { .comparison { table-layout: fixed; } }
@media (max-width: 760px) {
  .comparison thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .comparison, .comparison tbody, .comparison tr { display: block; }
  .comparison tr { margin: 12px 0; padding: 6px 12px; border: 1px solid var(--rule); border-radius: 8px;
    background: var(--card); }
  .comparison td { display: grid; grid-template-columns: 9.5em 1fr; gap: 8px; padding: 4px 0; border: 0; }
  .comparison td::before { content: attr(data-label); color: var(--soft); font-size: .8rem; font-weight: 400; }
  .comparison td.method { display: block; font-size: 1.05rem; }
  .comparison td.method::before { content: none; }
}
"""


def markdown(rows: list[dict[str, Any]]) -> str:
    """The comparison as Markdown: a table for each size of images, and what must be known of single rows.

    Args:
        rows: as `table.compare` gives them.
    """
    parts = [_legend(rows)]
    for size, group in _by_size(rows).items():
        lines = [HEADER, *("| " + " | ".join(_markdown_cells(row)) + " |" for row in group)]
        notes = [f"- {row['method']}, {row['tokens']}: {'; '.join(_texts(row))}" for row in group if _texts(row)]
        parts += [f"## {size} x {size}", "\n".join(lines), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def render(rows: list[dict[str, Any]], created: str) -> str:
    """The comparison as one self-contained HTML page.

    Args:
        rows: as `table.compare` gives them; their "results" are paths relative to the page.
        created: time to show.
    """
    sections = "".join(
        f"<section><h2>{size} &times; {size}</h2>{_html_table(group)}</section>"
        for size, group in _by_size(rows).items()
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Comparison of image tokenizers</title><style>{STYLE}{_TABLE_STYLE}</style></head><body><main>"
        f"<header><h1>Comparison of image tokenizers</h1><p>{escape(_legend(rows))} {escape(created)}</p></header>"
        f"{sections}</main></body></html>\n"
    )


def _legend(rows: list[dict[str, Any]]) -> str:
    number = sum(row["state"] in ("evaluated", "reused") for row in rows)
    text = (
        f"{number} of {len(rows)} rows measured here. Figures marked published are their authors', and protocols of "
        "different authors differ: such rows are not strictly comparable."
    )
    for size, group in _by_size(rows).items():
        if (
            len({(row["measured"]["fingerprint"], row["measured"]["num_images"]) for row in group if "measured" in row})
            > 1
        ):
            text += f" The rows measured at {size} x {size} are of different images."
    return text


def _by_size(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Rows by size of the images, the order kept."""
    grouped: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["image_size"], []).append(row)
    return grouped


def _figure(row: dict[str, Any], name: str) -> tuple[str, str]:
    """(the figure with its digits, its mark): ("1.53", "published"), ("1.61", "measured, 96 images"), ("-", "")."""
    figure = row["figures"][name]
    if figure["value"] is None:
        return "-", ""
    value = figure["value"]
    text = f"{100 * value:.4g} %" if name == "codebook_utilization" else f"{value:.2f}"
    measured = row.get("measured")
    if figure["source"] != "measured" or measured is None:
        return text, "published"
    number = measured["num_images"]
    of = "" if number == measured["protocol_num_images"] else f", {number:,} images"
    return text, f"measured{of}" + ("" if measured["status"] == "ok" else ", check failed")


def _checkpoint(row: dict[str, Any]) -> str:
    name = "never released" if row["never_released"] else row["checkpoint"] or "-"
    return f"{name} (failed)" if row["error"] else name


def _plain_cells(row: dict[str, Any]) -> list[str]:
    """The first five cells, which hold no figure."""
    return [row["method"], row["token_type"], row["tokens"], row["train_data"], f"{row['codebook_size']:,}"]


def _texts(row: dict[str, Any]) -> list[str]:
    """What a reader must know of a row: its error, how it was measured, its notes."""
    texts = [f"failed: {row['error']}"] if row["error"] else []
    if "measured" in row:
        sha256 = row["measured"]["checkpoint_sha256"][:12]
        names = ", ".join(f["name"] for f in row["figures"].values() if f["source"] == "measured")
        made_from = f"{names}; {row['weights_used']} weights; file {sha256}"
        texts += _against_published(row)
        texts.append(f"{row['state']} under the protocol {row['protocol']} ({made_from})")
    return texts + row["notes"]


def _against_published(row: dict[str, Any]) -> list[str]:
    """How far measured figures are from the published ones, where there are such."""
    parts = []
    for name, figure in row["figures"].items():
        if figure.get("published") is not None:
            digits = 4 if name == "codebook_utilization" else 2
            difference = figure["value"] - figure["published"]
            parts.append(f"{name} {figure['published']:.{digits}f} ({difference:+.{digits}f} here)")
    return [f"published: {', '.join(parts)}"] if parts else []


def _markdown_cells(row: dict[str, Any]) -> list[str]:
    figures = []
    for name in row["figures"]:
        text, mark = _figure(row, name)
        text = f"**{text}**" if mark.startswith("measured") else text
        figures.append(f"{text} ({mark})" if mark else text)
    cells = [*_plain_cells(row), *figures, _checkpoint(row)]
    return [cell.replace("|", "\\|") for cell in cells]


def _html_table(rows: list[dict[str, Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in _COLUMNS)
    body = "".join(_html_row(row) for row in rows)
    return f'<table class="comparison"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _html_row(row: dict[str, Any]) -> str:
    cells = [f"<span>{escape(text)}</span>" for text in _plain_cells(row)]
    cells[0] += "".join(
        f'<span class="note{" error" if text.startswith(("failed: ", "check failed: ")) else ""}">{escape(text)}</span>'
        for text in _texts(row)
    )
    for name in row["figures"]:
        text, mark = _figure(row, name)
        kind = mark.split(",")[0]
        label = f'<span class="mark {kind}">{escape(mark)}</span>' if mark else ""
        cells.append(f'<span><span class="value {kind}">{escape(text)}</span>{label}</span>')
    checkpoint = escape(_checkpoint(row))
    if row["results"]:
        page = escape(row["results"].replace("results.json", "report.html"))
        checkpoint = f'{checkpoint} <a href="{page}">report</a>'
    cells.append(f"<span>{checkpoint}</span>")
    kinds = ["method", "", "", "", "", "figure", "figure", "figure", ""]
    filled = "".join(
        f'<td class="{kind}" data-label="{escape(name)}">{cell}</td>'
        for kind, name, cell in zip(kinds, _COLUMNS, cells, strict=True)
    )
    return f'<tr class="{row["state"]}">{filled}</tr>'
