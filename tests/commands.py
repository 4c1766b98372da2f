"""Run a command as a user would, for the tests of scripts."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command, folder=ROOT, check=True, timeout=1800, **environment) -> subprocess.CompletedProcess:
    """Run a command; its whole output is shown if it fails. The timeout only ends what hangs."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "NODE_", "NUM_NODES"))}
    result = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**variables, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result
