"""Errors that a user can mend end a script with their message alone."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

from open_magvit2.common.logs import show_log

logger = logging.getLogger(__name__)


class UserError(Exception):
    """A mistake or a state of the machine that the user can mend; scripts print its message without a stack trace."""


@contextlib.contextmanager
def short_errors(code: int = 1) -> Iterator[None]:
    """End the program with `error: <message>` on ValueError, OSError and UserError instead of a stack trace.

    From here on, the program prints its log, and names of files that are no UTF-8.

    Args:
        code: exit code; 2 where no work has begun.
    """
    show_log()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is
    try:
        yield
    except (ValueError, OSError, UserError) as error:
        logger.debug("raised here", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(code)
