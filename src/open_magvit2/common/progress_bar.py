"""tqdm's progress bar, which in a log file writes a line for each state instead of carriage returns."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 30.0  # between two lines in a log file


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A bar on standard error; where that is no terminal, a line every `LOG_SECONDS`.

    Args:
        iterable: what the bar goes through, if anything.
        **options: of `tqdm.tqdm`.
    """
    if not sys.stderr.isatty():
        options = {"mininterval": LOG_SECONDS, **options, "file": _Lines()}
    return tqdm(iterable, **options)


class _Lines:
    """Standard error for a bar whose output is no terminal: every state of the bar is a line."""

    def write(self, text: str) -> None:
        if text := text.strip():  # tqdm puts a carriage return before each state, and blanks over the old one
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        sys.stderr.flush()
