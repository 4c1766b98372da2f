"""Processes for the tests without the seconds of the imports: forks of a server that has imported and done no more."""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from typing import NoReturn

METHOD = "forkserver"
_CONTEXT = multiprocessing.get_context(METHOD)
_CONTEXT.set_forkserver_preload(
    ["torch", "torchvision", "pytorch_lightning", "pytorch_lightning.cli", "lpips", "scipy"]
)


def run_script(
    words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path, timeout: float
) -> int:
    """Run a Python script as its own process, as `python SCRIPT ARGUMENTS` does; only what runs before it differs.

    Args:
        words: the script and its arguments.
        folder: to run in.
        environment: all variables.
        out, err: files for its output.
        timeout: seconds, only to end what hangs.

    Returns:
        the exit code; negative, the signal that ended it.
    """
    process = _CONTEXT.Process(target=_become, args=(words, folder, environment, out, err))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{words} did not finish within {timeout} s")
    return process.exitcode


def _become(words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> NoReturn:
    """What the interpreter does before it runs a script."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    runpy.run_path(words[0], run_name="__main__")
    sys.exit(0)
