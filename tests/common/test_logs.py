"""Programs print the log of this package, once for several processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from open_magvit2.common import logs

PROGRAM = """
import logging
from logs import show_log  # the module alone: the package imports torch
show_log()
ours, other = logging.getLogger("open_magvit2.data"), logging.getLogger("other")
for logger, name in ((ours, "ours"), (other, "other")):
    logger.debug("%s: debug", name)
    logger.info("%s: information", name)
    logger.warning("%s: warning", name)
    logger.error("%s: error", name)
"""


def run(program: str, monkeypatch) -> subprocess.CompletedProcess:
    monkeypatch.setenv("PYTHONPATH", str(Path(logs.__file__).parent))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("variables", "is_first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_the_first_process_prints_the_log_and_the_others_errors_alone(monkeypatch, variables, is_first):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = run(PROGRAM, monkeypatch)
    ours = ["ours: information", "ours: warning"] * is_first + ["ours: error"]
    assert result.stderr.splitlines() == [*ours, "other: warning", "other: error"]
    assert result.stdout == ""


def test_handlers_of_the_user_print_instead(monkeypatch):
    configured = "import logging\nlogging.basicConfig(level=logging.WARNING, format='mine %(message)s')" + PROGRAM
    result = run(configured, monkeypatch)
    assert all(line.startswith("mine ") for line in result.stderr.splitlines())
    assert "mine ours: warning" in result.stderr.splitlines()
