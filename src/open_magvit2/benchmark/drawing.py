"""Charts as small SVG files: lines on logarithmic axes and stacked bars, readable beside text on any background."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#64748b", "#a16207")
_WIDTH, _FONT = 760, 'font-family="system-ui, sans-serif" font-size="12"'


class Line(NamedTuple):
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


class Panel(NamedTuple):
    """One coordinate system of a chart; both axes are logarithmic."""

    title: str
    x_label: str
    lines: Sequence[Line]


def line_chart(title: str, panels: Sequence[Panel], note: str = "") -> str:
    """Panels side by side, with one legend of all labels below.

    Raises:
        ValueError: if there is no point to draw.
    """
    legend = {line.label: line for panel in panels for line in panel.lines}
    per_row = max(1, int((_WIDTH - 60) // (46 + 6.6 * max(map(len, legend), default=1))))
    legend_height = 20 * -(-len(legend) // per_row)
    top, plot_height, left, gap = 78, 210, 50, 64
    height = top + plot_height + 62 + legend_height
    width = (_WIDTH - left - 26 - gap * (len(panels) - 1)) / len(panels)
    parts = [_text(16, 22, title, size=15, bold=True), _text(16, 40, note, colour="#64748b")]
    for number, panel in enumerate(panels):
        x = left + number * (width + gap)
        parts += _panel(panel, x, top, width, plot_height)
    for number, line in enumerate(legend.values()):
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        x = left + (_WIDTH - 60) / per_row * (number % per_row)
        y = top + plot_height + 62 + 20 * (number // per_row)
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" stroke="{line.colour}" stroke-width="2"{dash}/>')
        parts.append(_text(x + 28, y + 4, line.label))
    return _svg(height, parts, title)


def bar_chart(title: str, bars: Mapping[str, Mapping[str, float]], unit: str, note: str = "") -> str:
    """Horizontal bars, each stacked from named parts; the total stands at its end.

    Args:
        title: of the picture.
        bars: label -> part -> value, not negative.
        unit: of the values.
        note: a line below the title.

    Raises:
        ValueError: if there is no bar, or none longer than 0.
    """
    names = list(dict.fromkeys(part for parts in bars.values() for part, value in parts.items() if value > 0))
    longest = max((sum(parts.values()) for parts in bars.values()), default=0)
    if longest <= 0:
        raise ValueError(f"nothing to draw for {title!r}: got {len(bars)} bars, the longest {longest}")
    left, right, top, step = 20 + 7.0 * max(map(len, bars)), 84, 58, 28
    legend_height = 34 if len(names) > 1 else 6
    height = round(top + step * len(bars) + legend_height)
    scale = (_WIDTH - left - right) / longest
    drawn = [_text(16, 22, title, size=15, bold=True), _text(16, 40, note, colour="#64748b")]
    for row, (label, parts) in enumerate(bars.items()):
        y, x = top + row * step, float(left)
        drawn.append(_text(left - 8, y + 15, label, anchor="end"))
        for part in filter(parts.get, names):
            value = parts[part]
            colour = COLOURS[names.index(part) % len(COLOURS)]
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{value * scale:.1f}" height="20" fill="{colour}">'
                f"<title>{escape(part)}: {value:.3g} {escape(unit)}</title></rect>"
            )
            x += value * scale
        drawn.append(_text(x + 6, y + 15, f"{_short(sum(parts.values()))} {unit}"))
    if len(names) > 1:
        x = 16.0
        for number, name in enumerate(names):
            y, colour = height - 22, COLOURS[number % len(COLOURS)]
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="12" height="12" fill="{colour}"/>')
            drawn.append(_text(x + 17, y + 10, name))
            x += 34 + 6.6 * len(name)
    return _svg(height, drawn, title)


def _panel(panel: Panel, x: float, y: float, width: float, height: float) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    if not points:
        raise ValueError(f"nothing to draw in the panel {panel.title!r}")
    horizontal, vertical = ([math.log10(p[axis]) for p in points] for axis in (0, 1))
    left, right = min(horizontal), max(max(horizontal), min(horizontal) + 1e-9)
    low, high = math.floor(min(vertical)), math.ceil(max(max(vertical), math.floor(min(vertical)) + 1e-9))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (math.log10(point[0]) - left) / (right - left)
        up = (math.log10(point[1]) - low) / (high - low)
        return x + across * width, y + height - up * height

    parts = [_text(x, y - 8, panel.title, bold=True)]
    for exponent in range(low, high + 1):
        line_y = y + height - (exponent - low) / (high - low) * height
        parts.append(f'<line x1="{x}" x2="{x + width}" y1="{line_y:.1f}" y2="{line_y:.1f}" stroke="#e2e8f0"/>')
        parts.append(_text(x - 6, line_y + 4, _short(10.0**exponent), anchor="end", colour="#64748b"))
    for value in sorted({point[0] for point in points}):
        tick = place((value, 10.0**low))[0]
        parts.append(
            f'<line x1="{tick:.1f}" x2="{tick:.1f}" y1="{y + height}" y2="{y + height + 4}" stroke="#94a3b8"/>'
        )
        parts.append(_text(tick, y + height + 18, f"{value:,.0f}", anchor="middle", colour="#64748b"))
    parts.append(_text(x + width / 2, y + height + 38, panel.x_label, anchor="middle"))
    for line in panel.lines:
        placed = [place(point) for point in sorted(line.points)]
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{line.colour}"/>' for a, b in placed]
    return parts


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 12, bold: bool = False, colour: str = "#0f172a"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} fill="{colour}"{weight}>{escape(text)}</text>'


def _svg(height: int, parts: Sequence[str], description: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" {_FONT} role="img" '
        f'aria-label="{escape(description)}">\n<rect width="100%" height="100%" rx="8" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
