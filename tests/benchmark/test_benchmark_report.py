"""What a benchmark leaves behind: whole files after every section, and figures that say where they come from."""

import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from open_magvit2.benchmark import evaluating, report, run, start_up
from open_magvit2.benchmark.settings import Settings, not_measured

CPU = Settings(torch.device("cpu"), full=False, repeats=1)


def test_cells_are_three_digits_and_say_what_is_not_there():
    assert [report.cell(value) for value in (None, 0.0123456, 12.345, 1234.5, 65536, "x", True)] == [
        *("-", "0.0123", "12.3", "1,234", "65,536", "x", "True")
    ]
    rows = [{"table": "t", "a": 1, "b": 2.0, "device": "cpu"}, {"table": "t", "a": 3, "c": not_measured("no GPU")}]
    assert report.table(rows) == "| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | - |\n| 3 | - | not measured: no GPU |\n"


def test_sections_are_written_one_by_one_and_kept(monkeypatch, tmp_path):
    def second(settings):
        # a run that is cut off here keeps the first section
        assert json.loads((tmp_path / "benchmark.json").read_text())["sections"]["evaluating"]["rows"]
        raise RuntimeError("out of luck")

    monkeypatch.setattr(evaluating, "measure", lambda settings: [{"table": "first", "N": 1}])
    monkeypatch.setattr(start_up, "measure", second)
    assert run.run(CPU, tmp_path, ["evaluating", "start_up"]) == ["start_up"]
    sections = json.loads((tmp_path / "benchmark.json").read_text())["sections"]
    row = sections["evaluating"]["rows"][0]
    assert row["torch"].startswith(torch.__version__.split("+")[0])
    assert row["device"]
    assert row["date"].startswith("20")
    assert sections["start_up"]["error"] == "RuntimeError: out of luck"
    text = (tmp_path / "benchmark.md").read_text()
    assert "**Failed: RuntimeError: out of luck**" in text
    assert row["device"] in text

    # another run replaces what it measures and nothing else
    monkeypatch.setattr(start_up, "measure", lambda settings: [{"table": "second", "CPU s": 2.5}])
    assert run.run(CPU, tmp_path, ["start_up"]) == []
    again = json.loads((tmp_path / "benchmark.json").read_text())["sections"]
    assert again["evaluating"] == sections["evaluating"]
    assert again["start_up"]["error"] is None
    assert list(again) == ["evaluating", "start_up"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_rows_that_come_one_by_one_are_kept_when_a_run_is_cut_off(monkeypatch, tmp_path):
    def rows(settings):
        yield {"table": "first", "N": 1}
        section = json.loads((tmp_path / "benchmark.json").read_text())["sections"]["evaluating"]
        assert [row["N"] for row in section["rows"]] == [1]
        assert section["error"] == "cut off after these rows"
        yield {"table": "first", "N": 2}
        if settings.full:
            raise RuntimeError("out of luck")

    monkeypatch.setattr(evaluating, "measure", rows)
    for full, failed, error in ((True, ["evaluating"], "RuntimeError: out of luck"), (False, [], None)):
        assert run.run(dataclasses.replace(CPU, full=full), tmp_path, ["evaluating"]) == failed
        section = json.loads((tmp_path / "benchmark.json").read_text())["sections"]["evaluating"]
        assert [row["N"] for row in section["rows"]] == [1, 2]
        assert section["error"] == error


@pytest.mark.parametrize("name", ["repeats", "batch"])
def test_nothing_cannot_be_measured(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        dataclasses.replace(CPU, **{name: 0})


def test_what_is_missing_is_said_before_anything_is_measured(tmp_path):
    with pytest.raises(ValueError, match="images must be a folder of photos; there is none at .*/photos"):
        dataclasses.replace(CPU, images=tmp_path / "photos")
    with pytest.raises(ValueError, match=r"checkpoint must be a tokenizer's file; there is none at .*/last\.ckpt"):
        dataclasses.replace(CPU, images=tmp_path, checkpoint=tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(ValueError, match="without images: add the folder of photos"):
        dataclasses.replace(CPU, checkpoint=tmp_path / "last.ckpt")


def test_an_output_of_no_use_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write into .*/file: .*; choose another output"):
        run.run(CPU, tmp_path / "file")
    other, foreign = "was not written by this benchmark", '{"sections": {"entropy": {"title": "another program"}}}'
    contents = {'{"sec': "is damaged", "[]": other, foreign: other, '{"sections": {"entropy": 1}}': other}
    for content, words in contents.items():
        (tmp_path / "benchmark.json").write_text(content)
        with pytest.raises(ValueError, match=f"{words}.*: remove it, or choose another output"):
            run.run(CPU, tmp_path)
        assert (tmp_path / "benchmark.json").read_text() == content


def test_sections_are_chosen_by_name_in_their_own_order():
    assert run.choose("start_up, entropy") == ["entropy", "start_up"]
    assert run.choose(None) == list(run.SECTIONS)
    with pytest.raises(ValueError, match=r"no section is called speed; there are: entropy"):
        run.choose("entropy,speed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:99"], "cannot run on cuda:99: .* take cpu"),
        (["--size", "small", "--device", "cpu", "--models", "B-256"], "--models chooses .*: add --size full"),
        (["--only", "speed"], "no section is called speed"),
    ],
)
def test_the_script_refuses_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "scripts" / "benchmark.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--output", str(tmp_path / "new"), *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "new").exists()
