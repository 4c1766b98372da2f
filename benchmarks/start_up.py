"""From the command line to the first result, in fresh processes: what everybody waits for, many times a day."""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.settings import Row, Settings

TITLE = "Start-up, fresh processes with warm file caches"

_MOST_REPEATS = 3  # of processes that take many seconds each


class ProcessTime(NamedTuple):
    """What a process took from its start to its end."""

    cpu_seconds: float  # computed by it and its children: does not grow when others want the cores as well
    wall_seconds: float
    output: str  # its standard output


def process_time(command: Sequence[str | Path], folder: Path | None = None) -> ProcessTime:
    """Run a command to its end.

    Args:
        command: the words of it.
        folder: to run it in.

    Raises:
        subprocess.CalledProcessError: if it fails; its output is in the error.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([str(word) for word in command], cwd=folder, check=True, capture_output=True, text=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return ProcessTime(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, done.stdout)


def commands(repository: Path) -> dict[str, list[str | Path]]:
    """What is measured, by its name in the table."""
    configs, train = repository / "configs" / "image_tokenizer", repository / "scripts" / "train.py"
    debug = ["--config", configs / "base.yaml", "--config", configs / "debug.yaml"]
    return {
        "import torch (the floor)": [sys.executable, "-c", "import torch"],
        "import open_magvit2": [sys.executable, "-c", "import open_magvit2"],
        "scripts/train.py --help": [sys.executable, train, "--help"],
        "scripts/evaluate.py --help": [sys.executable, repository / "scripts" / "evaluate.py", "--help"],
        "training with the debug config, one step, whole process": [
            *(sys.executable, train, "fit", *debug, "--trainer.max_steps", "1")
        ],
    }


def measure(settings: Settings) -> list[Row]:
    """One row a command; each is run once before, and then in turns with the others."""
    measured: dict[str, list[ProcessTime]] = {name: [] for name in commands(settings.repository)}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + min(_MOST_REPEATS, settings.repeats)):
            for name, command in commands(settings.repository).items():
                found = process_time(command, Path(folder))
                if number > 0:
                    measured[name].append(found)
    return [
        {
            "table": TITLE,
            "command": name,
            "CPU s": statistics.median(time.cpu_seconds for time in times),
            "wall s": statistics.median(time.wall_seconds for time in times),
        }
        for name, times in measured.items()
    ]
