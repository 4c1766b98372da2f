"""A training that is killed at random moments and continued ends bitwise as one that nobody killed."""

import json
import sys

import pytest
import torch
from commands import ROOT, run
from soak import differences, wrong_exit_codes
from torch.utils.tensorboard import SummaryWriter

from open_magvit2.common import checkpoints
from open_magvit2.training.resume import checkpoint_files

SCRIPT = ROOT / "tests" / "soak" / "soak.py"


def soak(folder, *flags) -> list[dict]:
    run(sys.executable, SCRIPT, "--output", folder, *flags, timeout=7200)
    result = json.loads((folder / "soak.json").read_text())
    assert result["differences"] == []
    return result["kills"]


@pytest.mark.long
def test_three_kills(tmp_path):
    kills = soak(tmp_path, "--kills", "3", "--steps", "80", "--seed", "16")
    assert [kill["signal"] for kill in kills] == ["SIGTERM", "SIGUSR1", "SIGKILL"]
    assert [kill["exit_code"] for kill in kills] == [75, 75, -9]
    # and it is not blind: one flipped bit, one more figure
    (last,) = (tmp_path / "disturbed").rglob("last.ckpt")
    content = checkpoints.read(last)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name].view(torch.int32).flatten()[0] ^= 1  # the last bit of a float32
    checkpoint_files.write(content, last)
    with SummaryWriter(next((tmp_path / "disturbed").rglob("events.out.tfevents.*")).parent) as writer:
        writer.add_scalar("train/one_more", 1.0, 80)
    found = differences(tmp_path / "undisturbed", tmp_path / "disturbed")
    assert found == [f"last.ckpt.state_dict.{name}", "logged.train/one_more"]


@pytest.mark.parametrize(
    ("number", "saved", "code", "is_wrong"),
    [
        ("SIGTERM", 6, 75, False),
        ("SIGUSR1", 6, 1, True),
        ("SIGUSR1", 3, -10, False),  # while it started: nothing new to save
        ("SIGKILL", 6, -9, False),
    ],
)
def test_a_stop_that_was_asked_for_ends_with_75(number, saved, code, is_wrong):
    kill = {"signal": number, "continued_from": 3, "saved": saved, "exit_code": code}
    assert wrong_exit_codes([kill]) == [kill] * is_wrong


def test_no_kills_are_refused():
    result = run(sys.executable, SCRIPT, "--kills", "0", check=False)
    assert result.returncode == 2
    assert "--kills 0 --steps 200" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills(tmp_path, processes):
    kills = soak(tmp_path, "--kills", "20", "--steps", "300", "--seed", "1", "--processes", processes)
    assert len(kills) == 20
    assert {kill["signal"] for kill in kills} == {"SIGKILL", "SIGTERM", "SIGUSR1"}
