"""Run scripts as a user does, whose own package `my_project` is on PYTHONPATH."""

import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

from commands import ROOT, run

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "my_project"


class User:
    """Somebody in a folder of their own.

    Args:
        folder: where commands run.
        source: the folder that holds `open_magvit2`, changed or not.
    """

    def __init__(self, folder: Path, source: Path = ROOT / "src") -> None:
        self.folder = folder
        self.path = os.pathsep.join(map(str, (source, HERE, HERE.parent)))  # the last one for tests/faults.py

    def run(self, script: str, *arguments: object, check: bool = True) -> CompletedProcess:
        """A script of the repository."""
        command = (sys.executable, ROOT / "scripts" / script, *arguments)
        return run(*command, folder=self.folder, check=check, PYTHONPATH=self.path)
