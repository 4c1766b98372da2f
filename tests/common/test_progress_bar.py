"""Bars in log files: lines, no carriage returns; commands of every kind use them."""

import io
import sys

from commands import ROOT

from open_magvit2.common import progress_bar as bars


def test_a_log_file_gets_lines(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(bars, "LOG_SECONDS", 0.0)
    for _ in bars.progress_bar(range(3), desc="work", unit="image"):
        pass
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert lines[-1].startswith("work: 100%")
    assert all(line.startswith("work: ") for line in lines)


def test_no_other_file_draws_a_bar_of_its_own():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    makers = [path.name for path in sources if " tqdm(" in path.read_text() or "=tqdm(" in path.read_text()]
    assert makers == ["progress_bar.py"]
