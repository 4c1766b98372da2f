"""The report's charts as small SVG drawings: no plotting library, no script, readable at the width of a telephone."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 18, 38


def histogram(values: Tensor, label: str, num_bins: int = 24) -> str:
    """How many images have which value; the mean is marked.

    Args:
        values: float [N]; infinite ones are left out and counted in the label.
        label: of the horizontal axis.
    """
    finite = values[values.isfinite()].to(torch.float64)
    if finite.numel() == 0:
        return _svg([_text(_WIDTH / 2, _HEIGHT / 2, "no finite values", "middle")], f"{label}: no finite values")
    low, high = finite.min().item(), finite.max().item()
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(finite, num_bins, low, high).tolist()
    left_out = len(values) - len(finite)
    note = f"{label} ({left_out} infinite left out)" if left_out else label
    width = (_WIDTH - _LEFT - _RIGHT) / num_bins
    parts = _axes(note, "images", (low, high), max(counts))
    for b, count in enumerate(counts):
        height = count / max(counts) * _plot_height()
        parts.append(_bar(_LEFT + b * width + 0.5, _HEIGHT - _BOTTOM - height, width - 1, height))
    mean = finite.mean().item()
    x = _LEFT + (mean - low) / (high - low) * _plot_width()
    parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    # On the side where there is room for it.
    anchor, shift = ("end", -4) if x > _WIDTH * 0.6 else ("start", 4)
    parts.append(_text(x + shift, _TOP - 3, f"mean {mean:.2f}", anchor))
    return _svg(parts, f"Histogram of {label}: {len(finite)} images from {low:.2f} to {high:.2f}, mean {mean:.2f}")


def code_histogram(counts: Tensor, codebook_size: int) -> str:
    """How many codes occur how often: never, once, 2 or 3 times, 4 to 7 times, and so on.

    Args:
        counts: int64 [U], how often each used code occurs, in any order.
        codebook_size: number of codes there are.
    """
    bins = counts.to(torch.float64).log2().floor().to(torch.int64).bincount().tolist()
    heights = [codebook_size - len(counts), *bins]
    ranges = ["never"] + [f"{2**b:,}" for b in range(len(bins))]
    parts = _frame("times a code occurs, from", "codes", max(heights))
    width = _plot_width() / len(heights)
    step = math.ceil(len(heights) / 8)
    for b, (number, label) in enumerate(zip(heights, ranges, strict=True)):
        height = number / max(heights) * _plot_height()
        parts.append(_bar(_LEFT + b * width + 0.5, _HEIGHT - _BOTTOM - height, width - 1, height))
        if b % step == 0:
            parts.append(_text(_LEFT + (b + 0.5) * width, _HEIGHT - _BOTTOM + 14, label, "middle"))
    most = int(counts.max()) if len(counts) else 0
    return _svg(parts, f"Histogram of code usage: {heights[0]:,} codes never occur, the most used one {most:,} times")


def code_usage(sorted_counts: Tensor, codebook_size: int) -> str:
    """Share of all tokens that the most used codes cover, the codes in descending order of use.

    Args:
        sorted_counts: int64 [U], the counts of the used codes, descending.
        codebook_size: number of codes there are; the straight line is their uniform use.
    """
    covered = sorted_counts.to(torch.float64).cumsum(0) / sorted_counts.sum()
    steps = torch.linspace(0, len(covered) - 1, min(200, len(covered))).round().to(torch.int64)
    points = [(0.0, 0.0)] + [((i + 1) / codebook_size, covered[i].item()) for i in steps.tolist()] + [(1.0, 1.0)]
    parts = _axes("share of the codebook, most used codes first", "share of tokens", (0.0, 1.0), 1.0)
    parts.append(_polyline([(0.0, 0.0), (1.0, 1.0)], "guide"))
    parts.append(_polyline(points, "line"))
    half = int((covered < 0.5).sum()) + 1
    parts.append(_text(_WIDTH - _RIGHT - 4, _HEIGHT - _BOTTOM - 8, f"half of the tokens: {half:,} codes", "end"))
    used = len(sorted_counts)
    return _svg(parts, f"Code usage: {used:,} of {codebook_size:,} codes used, {half:,} cover half of the tokens")


def bit_balance(means: Tensor) -> str:
    """The share of ones of every bit; a half is best.

    Args:
        means: float [K].
    """
    num_bits = len(means)
    width = _plot_width() / num_bits
    parts = _axes("bit of the index, 0 least significant", "share of ones", (0, num_bits - 1), 1.0, whole=True)
    for k, mean in enumerate(means.tolist()):
        height = mean * _plot_height()
        parts.append(_bar(_LEFT + k * width + 1, _HEIGHT - _BOTTOM - height, width - 2, height))
    parts.append(_polyline([(0.0, 0.5), (1.0, 0.5)], "mark"))
    return _svg(parts, f"Share of ones per bit, from {means.min():.3f} to {means.max():.3f}")


def mutual_information(information: Tensor) -> str:
    """What pairs of bits tell of each other, darker for more; the diagonal is left out.

    Args:
        information: float [K, K] in bits.
    """
    num_bits = len(information)
    size = min(_plot_height(), _plot_width()) / num_bits
    off_diagonal = information.clone().fill_diagonal_(0.0)
    highest = max(off_diagonal.max().item(), 1e-12)
    left = (_WIDTH - num_bits * size) / 2
    parts = []
    for i in range(num_bits):
        for j in range(num_bits):
            opacity = 0.06 + 0.94 * off_diagonal[i, j].item() / highest if i != j else 0.0
            parts.append(
                f'<rect class="bar" x="{left + j * size:.1f}" y="{_TOP + i * size:.1f}" width="{size - 0.6:.1f}" '
                f'height="{size - 0.6:.1f}" opacity="{opacity:.3f}"/>'
            )
    parts.append(_text(_WIDTH / 2, _HEIGHT - 8, f"bit against bit, at most {highest:.2g} bits", "middle"))
    return _svg(parts, f"Mutual information between bits, at most {highest:.3g} bits")


def _axes(x_label: str, y_label: str, x_range: tuple[float, float], highest: float, whole: bool = False) -> list[str]:
    """Frame, labels and the ends of both axes."""
    bottom = _HEIGHT - _BOTTOM
    digits = 0 if whole or max(map(abs, x_range)) >= 100 else 1 if max(map(abs, x_range)) >= 3 else 2
    return [
        *_frame(x_label, y_label, highest),
        _text(_LEFT, bottom + 14, f"{x_range[0]:.{digits}f}", "start"),
        _text(_WIDTH - _RIGHT, bottom + 14, f"{x_range[1]:.{digits}f}", "end"),
    ]


def _frame(x_label: str, y_label: str, highest: float) -> list[str]:
    """The labels of both axes, and the ends of the vertical one, which begins at 0."""
    bottom = _HEIGHT - _BOTTOM
    return [
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_label, "middle"),
        _text(_LEFT - 6, bottom, "0", "end"),
        _text(_LEFT - 6, _TOP + 9, f"{highest:,.0f}", "end"),
        f'<text transform="rotate(-90 14 {(_TOP + bottom) / 2})" x="14" y="{(_TOP + bottom) / 2}" '
        f'text-anchor="middle">{y_label}</text>',
    ]


def _polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through points given as shares of the plot's width and height."""
    placed = " ".join(
        f"{_LEFT + x * _plot_width():.1f},{_HEIGHT - _BOTTOM - y * _plot_height():.1f}" for x, y in points
    )
    return f'<polyline class="{kind}" points="{placed}"/>'


def _bar(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _svg(parts: list[str], description: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{description}">{"".join(parts)}</svg>'


def _plot_width() -> float:
    return _WIDTH - _LEFT - _RIGHT


def _plot_height() -> float:
    return math.floor(_HEIGHT - _TOP - _BOTTOM)
