"""report.html and table.html: pages that open offline as one file, from the files in `templates`.

Everything is embedded: the style sheet, pictures as PNG, charts as SVG. jinja2 and matplotlib are imported when a page
is written, because no other command needs them.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from open_magvit2.evaluation.report import charts, comparison, markdown
from open_magvit2.evaluation.report.gallery import AMPLIFICATION, Picture, png_address
from open_magvit2.evaluation.report.kinds import KINDS, Kind, checkpoint_name, figure_name
from open_magvit2.evaluation.report.record import doubts, figure, image_count
from open_magvit2.evaluation.report.sheet import Sheet

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"
_FOLDED = (
    "protocol",
    "samples",
    "reference",
    "dataset",
    "model",
    "metric_weights",
    "runtime",
    "versions",
    "git",
    "command",
    "sanity",
)

_TWO_DIGITS = ("rfid", "ris", "psnr", "codebook_entropy", "fid", "sfid", "inception_score")


def render(
    record: dict[str, Any],
    rows: dict[str, Tensor] | None = None,
    details: dict[str, dict[str, Tensor]] | None = None,
    pictures: list[Picture] | None = None,
    samples: Tensor | None = None,
) -> str:
    """The page of one record.

    Args:
        record: as `record.write_json` returns it.
        rows, details: of the `loop.Evaluation`, for charts.
        pictures: of the gallery.
        samples: generated images to show, uint8 [N, 3, H, W].
    """
    kind, protocol = KINDS[record["kind"]], record["protocol"]
    groups: dict[str, list[Picture]] = {}
    for picture in pictures or []:
        groups.setdefault(picture.group, []).append(picture)
    quoted = [figure_name(column, protocol) for column in kind.figures]
    wanted = [*quoted, *(protocol.get(name, name) for name in kind.cards)]
    cards = [(name, *figure(record, name)) for name in dict.fromkeys(filter(None, wanted))]
    return (
        _environment()
        .get_template("page.html")
        .render(
            record=record,
            kind=kind,
            checkpoint=checkpoint_name(record),
            doubts=doubts(record),
            images=image_count(record),
            cards=[card for card in cards if card[1] in record["metrics"] or card[0] in record["metrics_absent"]],
            groups=groups,
            samples=[] if samples is None else list(samples),
            amplification=AMPLIFICATION,
            charts=charts.draw(record, rows or {}, details or {}),
            figures=[(_plain_name(name, record), name, value) for name, value in record["metrics"].items()],
            folded=[(name.replace("_", " "), json.dumps(record[name], indent=2)) for name in _FOLDED if name in record],
        )
    )


def render_sweep(sweep: dict[str, Any]) -> str:
    """The page of a sweep, of the content of sweep.json; the results of its points are paths relative to the page."""
    names = list(dict.fromkeys(name for point in sweep["points"] for name in point["metrics"]))
    drawn = charts.sweep(sweep["points"])
    return _environment().get_template("sweep.html").render(sweep=sweep, names=names, charts=drawn)


def render_table(kind: Kind, rows: list[dict[str, Any]], created: str, sheets: Sequence[Sheet] = ()) -> str:
    """The page of a comparison.

    Args:
        kind: of the records.
        rows: as `table.compare` gives them; their "results" are paths relative to the page.
        created: time to show.
        sheets: pictures of the same photos from every tokenizer.
    """
    groups = markdown.by_size(rows)
    return (
        _environment()
        .get_template("table.html")
        .render(
            kind=kind,
            groups=groups,
            legend=markdown.legend(rows),
            created=created,
            markdown=markdown,
            left_out=markdown.left_out(rows),
            against=markdown.comparison_of(kind, rows),
            further=comparison.further(kind, rows),
            charts=[chart for size, group in groups.items() for chart in charts.rate_distortion(kind, group, size)],
            sheets=sheets,
        )
    )


@lru_cache(maxsize=1)
def _environment() -> "jinja2.Environment":
    import jinja2

    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"breakable": _breakable, "number": _number, "png": png_address}
    environment.globals["meanings"] = yaml.safe_load((_TEMPLATES / "meanings.yaml").read_text(encoding="utf-8"))
    return environment


def _plain_name(name: str, record: dict[str, Any]) -> str:
    return name.removesuffix(f"_{record['subset']}")


def _breakable(name: str) -> str:
    """A name that a browser may break after its underscores, and only there."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def _number(value: float | None, name: str) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return "\N{EN DASH}"
    if name == "codebook_utilization":
        return f"{value:.1%}"
    if name in ("codebook_used", "codebook_perplexity"):
        return f"{value:,.0f}"
    return f"{value:.2f}" if name.startswith(_TWO_DIGITS) else f"{value:.4f}"
