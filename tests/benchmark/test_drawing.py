"""The benchmark's charts: well-formed, to scale, and nothing silently left out."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from open_magvit2.benchmark import pictures
from open_magvit2.benchmark.drawing import Line, Panel, bar_chart, line_chart

SVG = "{http://www.w3.org/2000/svg}"
STAMP = {"device": "a <CPU>", "torch": "2", "date": "2026-01-01T00:00:00"}


def test_bars_are_to_scale_and_say_their_totals():
    chart = ElementTree.fromstring(bar_chart("t", {"first": {"a": 100.0, "b": 300.0}, "second": {"a": 200.0}}, "MiB"))
    widths = [float(r.get("width")) for r in chart.iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None]
    assert widths[1] == pytest.approx(3 * widths[0], rel=1e-2)
    assert widths[2] == pytest.approx(2 * widths[0], rel=1e-2)
    texts = [text.text for text in chart.iter(f"{SVG}text")]
    assert {"first", "second", "400 MiB", "200 MiB", "a", "b"} <= set(texts)
    with pytest.raises(ValueError, match="nothing to draw"):
        bar_chart("t", {}, "MiB")


def test_lines_are_logarithmic_and_stay_in_the_picture():
    line = Line("x", [(10, 1.0), (100, 10.0), (1000, 100.0)], "#000000")
    chart = ElementTree.fromstring(line_chart("t & u", [Panel("p", "n", [line]), Panel("q", "n", [line])]))
    for polyline in chart.iter(f"{SVG}polyline"):
        points = [tuple(map(float, p.split(","))) for p in polyline.get("points").split()]
        (x0, y0), (x1, y1), (x2, y2) = points
        assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
        assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
        assert y2 < y0
    width, height = (float(n) for n in chart.get("viewBox").split()[2:])
    for element in chart.iter():
        assert 0 <= float(element.get("x", 0)) <= width
        assert 0 <= float(element.get("y", 0)) <= height
    with pytest.raises(ValueError, match="nothing to draw in the panel"):
        line_chart("t", [Panel("p", "n", [])])


def test_pictures_come_from_rows_and_leave_out_what_was_not_measured():
    rows = [
        {"table": "t", "K": k, "N": n, "exact [CPU s]": 0.1, "exact [MiB]": 1.0, **plain, **STAMP}
        for k, n, plain in (
            (10, 256, {"softmax [CPU s]": 0.2, "softmax [MiB]": 3.0}),
            (18, 256, {"softmax [CPU s]": "not measured: too slow", "softmax [MiB]": "not measured: too slow"}),
        )
    ]
    memory = [
        {
            "table": "Peak memory of a step",
            "step": step,
            "total [MiB]": 4.0,
            "encoder [MiB]": 4.0,
            "ratio": 1.0,
            **STAMP,
        }
        for step in ("baseline", "ours")
    ]
    sections = {"entropy": {"rows": rows}, "training_step": {"rows": memory}, "profiling": {"rows": []}}
    found = pictures.draw(sections)
    assert sorted(found) == ["entropy.svg", "step_memory.svg"]
    labels = {text.text for text in ElementTree.fromstring(found["entropy.svg"]).iter(f"{SVG}text")}
    assert {"exact, K = 10", "softmax, K = 10", "exact, K = 18"} <= labels
    assert "softmax, K = 18" not in labels
    assert re.search("a &lt;CPU&gt;; torch 2; 2026-01-01", found["entropy.svg"])
