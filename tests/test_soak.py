"""The soak script: a training killed at random moments and continued is bitwise the one that nobody killed."""

import json
import sys

import pytest
from commands import ROOT, run


def soak(folder, *flags) -> list[dict]:
    run(sys.executable, ROOT / "scripts" / "soak.py", "--output", folder, *flags, timeout=3600)
    result = json.loads((folder / "soak.json").read_text())
    assert result["differences"] == []
    return result["kills"]


def test_three_kills(tmp_path):
    kills = soak(tmp_path, "--kills", "3", "--steps", "80", "--seed", "16")
    assert [kill["signal"] for kill in kills] == ["SIGTERM", "SIGUSR1", "SIGKILL"]
    assert [kill["exit_code"] for kill in kills] == [75, 75, -9]


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    kills = soak(tmp_path, "--kills", "20", "--steps", "300", "--seed", "1")
    assert len(kills) == 20
    assert {kill["signal"] for kill in kills} == {"SIGKILL", "SIGTERM", "SIGUSR1"}
