"""The benchmark by its command line at toy size: files, tables, sections that fail, mistakes."""

import json
import sys

import pytest
import torch

from benchmarks import entropy, evaluating, precisions, run, subjects, tokenizing
from benchmarks.settings import Settings

SETTINGS = Settings(torch.device("cpu"), full=False, repeats=1)


def test_the_command_writes_both_files_and_keeps_other_sections(tmp_path, monkeypatch):
    words = ["run", "--output", str(tmp_path), "--device", "cpu", "--only", "entropy", "--tokens", "32", "64"]
    for bits in ("6", "8"):
        monkeypatch.setattr(sys, "argv", [*words, "--bits", bits])
        with pytest.raises(SystemExit, match="0"):
            run.main()
    section = json.loads((tmp_path / "benchmark.json").read_text())["sections"]["entropy"]
    assert [(row["K"], row["N"]) for row in section["rows"]] == [(8, 32), (8, 64)]
    assert section["error"] is None
    assert torch.__version__.startswith(section["machine"]["versions"]["torch"])
    report = (tmp_path / "benchmark.md").read_text()
    assert f"## {entropy.TITLE}" in report
    assert "| 8 | 64 |" in report


def test_a_section_that_fails_carries_its_error_and_stops_no_other(tmp_path, monkeypatch):
    def fails(settings):
        yield {"table": "t", "figure": 1.5}
        raise RuntimeError("no room")

    monkeypatch.setattr(entropy, "measure", fails)
    monkeypatch.setattr(evaluating, "measure", lambda settings: [{"table": "t", "figure": 2}])
    assert run.run(SETTINGS, tmp_path, ["entropy", "evaluating"]) == ["entropy"]
    sections = json.loads((tmp_path / "benchmark.json").read_text())["sections"]
    assert sections["entropy"]["error"] == "RuntimeError: no room"
    assert sections["entropy"]["rows"][0]["figure"] == 1.5
    assert sections["evaluating"]["rows"][0]["figure"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "entropie"], "no section is called entropie"),
        (["--device", "tpu"], "tpu"),
        (["--repeats", "0"], "repeats must be at least 1, got 0"),
        (["--images", "nowhere"], "there is none at nowhere"),
    ],
)
def test_mistakes_are_refused(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["run", "--output", str(tmp_path), *flags])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("section", [evaluating, precisions, tokenizing])
def test_other_sections_run(monkeypatch, section):
    tiny = subjects.Case("toy", (1, 1), 32, channels=32, num_bits=6)
    monkeypatch.setattr(subjects, "SMALL", tiny)
    monkeypatch.setattr(subjects, "TINY", tiny)
    rows = list(section.measure(SETTINGS))
    assert rows
    assert all(row["table"] for row in rows)


def test_cells():
    shown = [run.cell(value) for value in (None, 1234.5, 0.012345, 1234, True, "text")]
    assert shown == ["-", "1,234", "0.0123", "1,234", "True", "text"]
