"""Run a command as a user would, for the tests of scripts."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]


def run(*command, folder=ROOT, check=True, timeout=1800, **environment) -> subprocess.CompletedProcess:
    """Run a command; its whole output is shown if it fails. The timeout only ends what hangs."""
    words = [str(word) for word in command]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "NODE_", "NUM_NODES"))}
    variables |= {"PYTHON": sys.executable, **environment}
    result = subprocess.run(
        words, cwd=folder, env=variables, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert not check or result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result


def run_here(script: Path, *arguments) -> subprocess.CompletedProcess:
    """Run a Python script in this process, for mistakes and help texts: it saves the seconds of the imports."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    words = [str(word) for word in (script, *arguments)]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
