"""Run a command as a user would, for the tests of scripts."""

import atexit
import contextlib
import gc
import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]

# Processes are forks of a server that has imported libraries and done no more, which saves the seconds of the imports.
# Nothing of this package is among them: tests run commands on changed copies of it.
FORKS = multiprocessing.get_context("forkserver")
IMPORTS = ["torch", "torch._dynamo", "torchvision", "pytorch_lightning.cli", "lpips", "scipy.linalg"]
IMPORTS += ["matplotlib.figure", "omegaconf", "pooch", "safetensors.torch", "torch.utils.tensorboard"]
FORKS.set_forkserver_preload(IMPORTS)


def run(*command, folder=ROOT, check=True, timeout=1800, whole=False, **environment) -> subprocess.CompletedProcess:
    """Run a command in a process of its own; its whole output is shown if it fails. The timeout only ends what hangs.

    Python scripts begin with the imports done and leave out the interpreter's own end, unless they must be `whole`
    processes or more than PYTHONPATH is asked of their environment. The demo, the run scripts and the soak start whole
    ones.
    """
    words = [str(word) for word in command]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "NODE_", "NUM_NODES"))}
    variables |= {"PYTHON": sys.executable, **environment}
    is_script = words[0] == sys.executable and words[1].endswith(".py")
    if is_script and not whole and not set(environment) - {"PYTHONPATH"}:
        result = _run_fork(words, folder, timeout, variables)
    else:
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


def _run_fork(words: list[str], folder: Path, timeout: float, variables: dict) -> subprocess.CompletedProcess:
    """Run a Python script in a fork of the server."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams = [multiprocessing.reduction.DupFd(file.fileno()) for file in (out, err)]
        process = FORKS.Process(target=_become, args=(words[1:], str(folder), variables, *streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        texts = [(file.seek(0), io.TextIOWrapper(file).read())[1] for file in (out, err)]
    return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _become(words: list[str], folder: str, variables: dict, *streams) -> None:
    """Turn a fork of the server into the process of a script."""
    gc.freeze()  # what the server has imported is no garbage
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.detach(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1) for number in (1, 2))
    multiprocessing.set_start_method(None, force=True)  # the default, as in a new process
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    paths = variables.get("PYTHONPATH", "").split(os.pathsep)
    folders = [(path, Path(path).resolve()) for path in sys.path]  # without those of the tests
    sys.path[:] = [path for path, at in folders if at != ROOT and not at.is_relative_to(ROOT / "tests")]
    sys.path[:0] = [str(Path(words[0]).parent), *filter(None, paths)]
    sys.argv = words
    code = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.exit(code)
