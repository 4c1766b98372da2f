"""A comparison as a LaTeX table."""

from typing import Any

from open_magvit2.evaluation.report.comparison import names_of_rows
from open_magvit2.evaluation.report.kinds import Kind
from open_magvit2.evaluation.report.markdown import figure_with_mark, plain_cells

_ESCAPES = {"\\": r"\textbackslash{}"} | {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"}


def comparison(kind: Kind, rows: list[dict[str, Any]]) -> str:
    """The table of the field with booktabs; measured figures are bold, published ones plain.

    Comments above it say which metric a measured figure is and over how many images, for the caption.

    Args:
        kind: of the rows.
        rows: as `table.compare` gives them.
    """
    columns = (*kind.facts, *kind.figures)
    head = [f"\\begin{{tabular}}{{l{'l' * len(kind.facts)}{'r' * len(kind.figures)}}}", "\\toprule"]
    head += [" & ".join(map(_escaped, ["Method", *(column.title for column in columns)])) + r" \\", "\\midrule"]
    lines, measured, names = [], [], names_of_rows(rows)
    previous = rows[0]["image_size"] if rows else None
    for entry in rows:
        if entry["image_size"] != previous:
            lines.append("\\midrule")
            previous = entry["image_size"]
        words = list(map(_escaped, plain_cells(kind, entry)))
        for column in kind.figures:
            value, mark = figure_with_mark(entry, column.name, column.form)
            is_measured = mark.startswith("measured")
            words.append(f"\\textbf{{{_escaped(value)}}}" if is_measured else _escaped(value))
            if is_measured:
                measured.append(f"% {column.title} {value} of {' '.join(names[id(entry)].split())}: {mark}")
        lines.append(" & ".join(words) + r" \\")
    notes = ["% needs \\usepackage{booktabs}; bold: measured here, plain: as published", *measured]
    return "\n".join([*notes, *head, *lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _escaped(words: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in words)
