"""The charts of a page, drawn with matplotlib as SVG in the colours of its style sheet, light and dark."""

import io
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from open_magvit2.evaluation.report.comparison import bits_per_pixel
from open_magvit2.evaluation.report.kinds import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stands in the SVG until it is replaced by a variable of style.css.
_COLOURS = {"#010203": "var(--accent)", "#040506": "var(--soft)", "#070809": "var(--rule)", "#0a0b0c": "var(--mark)"}
_ACCENT, _SOFT, _RULE, _MARK = _COLOURS
_SIZE = (4.2, 2.5)  # inches; a page scales them to its width


class Chart(NamedTuple):
    """One drawing."""

    title: str
    description: str  # in words, for those who cannot see it
    svg: str


def draw(record: dict[str, Any], rows: dict[str, Tensor], details: dict[str, dict[str, Tensor]]) -> list[Chart]:
    """The charts of what an evaluation measured.

    Args:
        record: of the evaluation.
        rows: per-image columns, float64 [N].
        details: of the metrics, by name.
    """
    return list(_charts(record, rows, details.get("codebook_usage", {})))


def _charts(record: dict[str, Any], rows: dict[str, Tensor], usage: dict[str, Tensor]) -> Iterator[Chart]:
    if "psnr_image" in rows:
        yield histogram("PSNR of the images", rows["psnr_image"], "dB")
    if "sorted_counts" in usage:
        counts, size = usage["sorted_counts"], record["model"]["codebook_size"]
        yield code_histogram(counts, size)
        yield code_usage(counts, size)
    if "bit_means" in usage:
        yield bit_balance(usage["bit_means"])
        yield mutual_information(usage["bit_mutual_information"])


def histogram(title: str, values: Tensor, unit: str, num_bins: int = 24) -> Chart:
    """Histogram of a value over images; the mean is marked.

    Args:
        title: of the chart.
        values: float [N]; infinite ones are left out and counted in the label.
        unit: of the values.
        num_bins: number of bars.
    """
    finite = values[values.isfinite()].to(torch.float64)
    if not finite.numel():
        return Chart(title, f"{title}: no finite values", "")
    mean, left_out = finite.mean().item(), len(values) - len(finite)
    axes = _axes(f"{unit} ({left_out} infinite left out)" if left_out else unit, "images")
    axes.hist(finite.numpy(), num_bins, color=_ACCENT, rwidth=0.92)
    axes.axvline(mean, color=_MARK, linewidth=1.2)
    axes.set_title(f"mean {mean:.2f}", fontsize=8, color=_MARK, loc="right")
    description = f"{len(finite)} images from {finite.min():.2f} to {finite.max():.2f} {unit}, mean {mean:.2f}"
    return _chart(title, axes, description)


def code_histogram(counts: Tensor, codebook_size: int) -> Chart:
    """Number of codes that occur never, once, 2 or 3 times, 4 to 7 times, and so on.

    Args:
        counts: int64 [U], how often each used code occurs, in any order.
        codebook_size: number of codes there are.
    """
    heights = usage_bins(counts, codebook_size)
    labels = ["never", *(f"{2**b:,}" for b in range(len(heights) - 1))]
    axes = _axes("times a code occurs, from", "codes")
    axes.bar(range(len(heights)), heights, 0.92, color=_ACCENT)
    step = -(-len(heights) // 8)
    axes.set_xticks(range(0, len(heights), step), labels[::step])
    most = int(counts.max()) if len(counts) else 0
    description = f"{heights[0]:,} codes never occur, the most used one {most:,} times"
    return _chart("How often codes occur", axes, description)


def usage_bins(counts: Tensor, codebook_size: int) -> list[int]:
    """Numbers of codes that occur never, once, 2 or 3 times, 4 to 7 times, and so on."""
    bins = counts.to(torch.float64).log2().floor().to(torch.int64).bincount().tolist()
    return [codebook_size - len(counts), *bins]


def code_usage(sorted_counts: Tensor, codebook_size: int) -> Chart:
    """Share of all tokens that the most used codes cover, the codes in descending order of use.

    Args:
        sorted_counts: int64 [U], the counts of the used codes, descending.
        codebook_size: number of codes there are; the dashed line is their uniform use.
    """
    covered = sorted_counts.to(torch.float64).cumsum(0) / sorted_counts.sum()
    steps = torch.linspace(0, len(covered) - 1, min(200, len(covered))).round().to(torch.int64)
    half = int((covered < 0.5).sum()) + 1
    axes = _axes("share of the codebook, most used codes first", "share of tokens")
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle="--")
    axes.plot([0, *((steps + 1) / codebook_size).tolist(), 1], [0, *covered[steps].tolist(), 1], color=_ACCENT)
    axes.text(0.98, 0.05, f"half of the tokens: {half:,} codes", fontsize=8, color=_SOFT, ha="right")
    description = f"{len(sorted_counts):,} of {codebook_size:,} codes used, {half:,} cover half of the tokens"
    return _chart("Use of the codes", axes, description)


def sweep(points: list[dict[str, Any]]) -> list[Chart]:
    """FID and Inception Score of the points of a sweep against the first option, and against each other.

    Args:
        points: with "options" and "metrics"; a line for every combination of the other options.
    """
    scale, *others = points[0]["options"]
    is_list = any(isinstance(point["options"][scale], list) for point in points)  # one value a sub-token
    lines: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        options = point["options"]
        label = ", ".join(f"{name} {_words(options[name])}" for name in others)
        place = _words(options[scale]) if is_list else options[scale]
        lines.setdefault(label, []).append({**point["metrics"], scale: place})
    wanted = [
        ("FID", (scale, "fid"), (scale, "FID")),
        ("Inception Score", (scale, "inception_score"), (scale, "IS")),
        ("IS against FID", ("fid", "inception_score"), ("FID", "IS")),
    ]
    drawn = []
    for title, names, labels in wanted:
        pairs = {label: [tuple(map(values.get, names)) for values in line] for label, line in lines.items()}
        pairs = {label: [pair for pair in line if None not in pair] for label, line in pairs.items()}
        if any(pairs.values()):
            drawn.append(_curves(title, *labels, pairs))
    return drawn


def _words(value: float | list[float]) -> str:
    """A setting as the command line has it."""
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _curves(title: str, x_label: str, y_label: str, lines: dict[str, list[tuple[Any, float]]]) -> Chart:
    axes = _axes(x_label, y_label)
    styles = itertools.cycle(itertools.product(("-", "--", ":", "-."), (_ACCENT, _MARK, _SOFT)))
    for (label, pairs), (style, colour) in zip(lines.items(), styles, strict=False):
        ordered = pairs if any(isinstance(x, str) for x, _ in pairs) else sorted(pairs)
        columns = [x for x, _ in ordered], [y for _, y in ordered]
        axes.plot(*columns, style, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
    if len(lines) > 1:
        axes.legend(fontsize=7, labelcolor=_SOFT, frameon=False)
    found = [y for pairs in lines.values() for _, y in pairs]
    return _chart(title, axes, f"{y_label} from {min(found):.2f} to {max(found):.2f} against {x_label}")


def rate_distortion(kind: Kind, rows: list[dict[str, Any]], size: str) -> list[Chart]:
    """Figures of a comparison against bits per pixel: measured ones filled, published ones hollow.

    Args:
        kind: of the rows; one without tokens has no such charts.
        rows: as `table.compare` gives them, of images of one size: figures of others are not comparable.
        size: of the images, in words.
    """
    drawn = []
    for column in (*kind.figures, *kind.further):
        if column.name not in ("rfid", "psnr", "lpips_alex"):
            continue
        points = [(bits_per_pixel(entry), entry["figures"].get(column.name, {}), entry) for entry in rows]
        points = [p for p in points if p[0] is not None and p[1].get("value") is not None]
        if len(points) < 2:
            continue
        points.sort(key=lambda point: point[1]["source"] != "measured")  # labels of measured ones come first
        rates, found = [math.log2(rate) for rate, *_ in points], [cell["value"] for _, cell, _ in points]
        width, low, height = max(rates) - min(rates) or 1, min(found), max(found) - min(found) or 1
        axes, labelled = _axes("bits per pixel", column.title), []
        for rate, cell, entry in points:
            is_measured = cell["source"] == "measured"
            colour = _ACCENT if is_measured else _SOFT
            axes.plot(rate, cell["value"], "o", color=colour, markersize=4, fillstyle="full" if is_measured else "none")
            x, y = math.log2(rate) / width, (cell["value"] - low) / height
            if all(abs(x - u) > 0.22 or abs(y - v) > 0.045 for u, v in labelled):  # else it would lie on another
                labelled.append((x, y))
                style = {"textcoords": "offset points", "fontsize": 5, "color": colour}
                axes.annotate(entry["method"], (rate, cell["value"]), (4, 2), **style)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        number = sum(cell["source"] == "measured" for _, cell, _ in points)
        told = f"{len(points)} tokenizers, {number} measured (filled), the others as published (hollow)"
        description = f"{told}, from {min(found):.4g} to {max(found):.4g}; a label on another is left out"
        drawn.append(_chart(f"{column.title} against bits per pixel, {size}", axes, description))
    return drawn


def bit_balance(means: Tensor) -> Chart:
    """The share of ones of every bit, float [K]; a half is best."""
    axes = _axes("bit of the index, 0 least significant", "share of ones")
    axes.bar(range(len(means)), means.numpy(), 0.85, color=_ACCENT)
    axes.axhline(0.5, color=_MARK, linewidth=1.2)
    axes.set_ylim(0, 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _chart("Balance of the bits", axes, f"share of ones from {means.min():.3f} to {means.max():.3f}")


def mutual_information(information: Tensor) -> Chart:
    """Mutual information of pairs of bits, float [K, K] in bits, darker for more; the diagonal is left out."""
    off_diagonal = information.clone().fill_diagonal_(0.0)
    highest = off_diagonal.max().item()
    opacity = 0.06 + 0.94 * off_diagonal / max(highest, 1e-12)
    axes = _axes(f"bit against bit, at most {highest:.2g} bits", "")
    for i, row in enumerate(opacity.tolist()):
        for j, alpha in enumerate(row):
            if i != j:
                axes.bar(j, 0.94, 0.94, i - 0.47, color=_ACCENT, alpha=alpha)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_axis_on()
    axes.tick_params(length=0)
    for ticks in (axes.xaxis, axes.yaxis):
        ticks.get_major_locator().set_params(integer=True)
    return _chart("Mutual information of the bits", axes, f"at most {highest:.3g} bits between two bits")


def _axes(x_label: str, y_label: str) -> "Axes":
    """Empty axes of a figure that no window knows."""
    from matplotlib.figure import Figure

    axes = Figure(_SIZE, layout="constrained").add_subplot()
    axes.set_xlabel(x_label, fontsize=8, color=_SOFT)
    axes.set_ylabel(y_label, fontsize=8, color=_SOFT)
    axes.tick_params(labelsize=8, labelcolor=_SOFT, color=_RULE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_RULE)
    return axes


def _chart(title: str, axes: "Axes", description: str) -> Chart:
    from matplotlib import rc_context

    file = io.StringIO()
    # Text stays text, in the font of the page; the salt makes names unique on it and the same in every run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        axes.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    return Chart(title, description, svg)
