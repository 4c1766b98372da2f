"""CPU seconds of a command as on a core that nobody else slows down: for limits that a busy machine keeps as well."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from open_magvit2.benchmark.start_up import ProcessTime, process_time

_ATTEMPTS = 2


class Yardstick(NamedTuple):
    """Work like what is measured, of which no change of ours makes more or less."""

    command: Sequence[str]
    quiet_cpu_seconds: float  # where the limits were set, with nobody else at work


IMPORT_TORCH = Yardstick([sys.executable, "-c", "import torch"], 2.11)  # docs/performance.md, start-up


def undisturbed(
    command: Sequence[str | Path], limit: float, folder: Path | None = None, yardstick: Yardstick = IMPORT_TORCH
) -> ProcessTime:
    """Run a command, again beside the yardstick if it took too long, and say what it takes on a quiet machine.

    Args:
        command: the words of it.
        limit: CPU seconds within which it is not run again.
        folder: to run it in.
        yardstick: run before and after, in processes of its own.

    Returns:
        the run with the fewest CPU seconds; those of a repetition are divided by how much slower than when quiet the
        yardstick is, never multiplied.
    """
    found = process_time(command, folder)  # its file caches may be cold
    if found.cpu_seconds < limit:
        return found
    # This is no looser limit. CPU seconds do not count waiting for a core, but they grow (by up to 2.4 times, in CI)
    # when others share its caches and its clock, and the limit is for a core that nobody else slows down. What is slow
    # in our code leaves the yardstick as quick as it was, and then nothing is forgiven.
    before = process_time(yardstick.command).cpu_seconds
    for _ in range(_ATTEMPTS):
        again = process_time(command, folder)
        after = process_time(yardstick.command).cpu_seconds
        slowdown = max(1.0, min(before, after) / yardstick.quiet_cpu_seconds)
        found = min(found, again._replace(cpu_seconds=again.cpu_seconds / slowdown))
        if found.cpu_seconds < limit:
            break
        before = after
    return found
