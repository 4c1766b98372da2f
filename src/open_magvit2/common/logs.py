"""The part of the log that programs print."""

import logging
import os


def show_log() -> None:
    """Print what this package logs once: processes that a launcher has numbered above 0 print errors alone.

    For programs. Where the user has configured logging, their handlers print instead.
    """
    numbers = [os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ]
    is_first = not numbers or int(numbers[0]) == 0
    logging.getLogger("open_magvit2").setLevel(logging.INFO if is_first else logging.ERROR)
    logging.lastResort.setLevel(logging.INFO)  # other packages' messages still begin at WARNING
