"""One process of several fails, hangs or gets a signal: all end, with the right exit code, and the cause is named."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from commands import ROOT, run
from processes import process_group, spawn

from open_magvit2.training import launch
from open_magvit2.training.cli import MISTAKE, STOPPED
from open_magvit2.training.data_parallel import lost_another_process, register_ddp
from open_magvit2.training.resume.preemption import EXIT_CODE, Agreement

LAUNCH = ROOT / "src" / "open_magvit2" / "training" / "launch.py"
DESTROYED = "the process group is destroyed"  # `faults.Fault` says so in the place of Lightning under NCCL
LATE = "did not answer within ddp.timeout_minutes"


def start(*command, **options) -> subprocess.Popen:
    """launch.py with two processes."""
    words = [sys.executable, LAUNCH, "--processes", "2", *command]
    return subprocess.Popen([str(word) for word in words], text=True, stderr=subprocess.PIPE, **options)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)


def training(rank: int, kind: str, *flags: str) -> list[str]:
    """Two processes on the debug configuration, with a fault in one of them."""
    configs = ROOT / "configs" / "image_tokenizer"
    words = [sys.executable, ROOT / "scripts/train.py", "fit"]
    words += ["--config", configs / "base.yaml", "--config", configs / "debug.yaml"]
    words += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.callbacks+=faults.Fault"]
    return [str(w) for w in (*words, "--trainer.callbacks.rank", rank, "--trainer.callbacks.kind", kind, *flags)]


def train(folder: Path, words: list[str], launcher: bool = True):
    """Run a training by launch.py, or by Lightning's own launcher; returns when all processes have ended."""
    command = [sys.executable, LAUNCH, "--processes", "2", "--grace-seconds", "2"] if launcher else []
    path = f"{ROOT / 'src'}:{ROOT / 'tests'}"
    return run(*command, *words, folder=folder, check=False, whole=True, PYTHONPATH=path)


def shell(*scripts: str) -> list[subprocess.Popen]:
    return [subprocess.Popen(["sh", "-c", script]) for script in scripts]


@pytest.mark.parametrize(
    ("scripts", "code", "said"),
    [
        (["exit 0", "sleep 0.2"], 0, ""),
        (["sleep 0.5; exit 1", "exit 7"], 7, "rank 5 (process {1} on "),  # the first in time
        (["exec sleep 60", "kill -KILL $$"], 137, "was killed by SIGKILL"),
        (["exec sleep 60", "kill -TERM $$"], 143, "was ended by SIGTERM"),
        (["sleep 0.5; exit 75", "exit 75"], 75, ""),
        (["sleep 0.5; exit 1", "exit 75"], 1, "rank 4 (process {0} on "),  # failed while it saved
        (["exit 2", "exec sleep 60"], 2, "ended with exit code 2"),
    ],
)
def test_the_first_failure_is_named_and_its_code_returned(capsys, scripts, code, said):
    processes = shell(*scripts)
    assert launch.wait(processes, first_rank=4, grace_seconds=2.0) == code
    screen = capsys.readouterr().err
    assert said.format(*(process.pid for process in processes)) in screen
    assert bool(said) == bool(screen)
    assert all(process.wait() is not None for process in processes)  # none is left


def test_exit_codes_are_those_of_the_command_line():
    assert (launch.PREEMPTED, launch.ALL_ALIKE) == (EXIT_CODE, (MISTAKE, STOPPED))


def test_each_process_gets_the_environment_of_torchrun(tmp_path):
    script = f'echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT > {tmp_path}/"$LOCAL_RANK"'
    variables = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    process = start("--nodes", "3", "sh", "-c", script, env={**os.environ, **variables})
    assert process.wait() == 0
    written = [(tmp_path / str(i)).read_text().split() for i in range(2)]
    assert written == [["2", "0", "6", "10.0.0.1", "29500"], ["3", "1", "6", "10.0.0.1", "29500"]]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's PR_SET_PDEATHSIG")
def test_when_the_launcher_is_killed_no_process_is_left(tmp_path):
    process = start(
        "sh", "-c", f"echo $$ > {tmp_path}/pid.$RANK; mv {tmp_path}/pid.$RANK {tmp_path}/$RANK; exec sleep 3600"
    )
    for rank in range(2):
        wait_for(tmp_path / str(rank), process)
    process.kill()
    process.wait()
    for rank in range(2):
        stat = Path("/proc", (tmp_path / str(rank)).read_text().strip(), "stat")
        deadline = time.monotonic() + 300
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_launcher_reaches_all_processes(tmp_path, number):
    script = f"trap 'sleep 0.3; exit 75' {number.name[3:]}; touch {tmp_path}/$RANK; while true; do sleep 0.05; done"
    process = start("sh", "-c", script)
    for rank in range(2):
        wait_for(tmp_path / str(rank), process)
    process.send_signal(number)
    assert process.wait() == EXIT_CODE
    assert process.stderr.read() == ""


@pytest.mark.long
def test_a_signal_to_the_launcher_saves_a_training(tmp_path):
    words = training(2, "raise", "--trainer.max_steps", "100000", "--checkpoint.every_steps", "2")  # there is no rank 2
    process = start(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"})
    wait_for(tmp_path / "outputs/debug/version_0/checkpoints" / "step_*.ckpt", process)
    process.send_signal(signal.SIGUSR1)
    _, screen = process.communicate()
    assert process.returncode == EXIT_CODE, screen[-3000:]
    assert "--ckpt_path last continues it" in screen
    assert "launch:" not in screen


@pytest.mark.long
def test_an_error_in_one_process_ends_both_and_is_named(tmp_path):
    result = train(tmp_path, training(1, "raise"))
    assert result.returncode == 1
    assert "RuntimeError: a fault in rank 1" in result.stderr
    assert "launch: rank 1 (process" in result.stderr
    assert DESTROYED not in result.stderr  # that would wait for the other rank


@pytest.mark.long
def test_an_error_under_lightnings_launcher_ends_both(tmp_path):
    result = train(tmp_path, training(1, "raise"), launcher=False)
    assert result.returncode != 0
    assert "RuntimeError: a fault in rank 1" in result.stderr


@pytest.mark.long
def test_a_signal_under_lightnings_launcher_ends_both_with_75(tmp_path):
    """Although the first process takes longer to end than the 5 s that Lightning leaves it after another one."""
    result = train(tmp_path, training(0, "signal", "--trainer.callbacks.seconds_to_end", "7"), launcher=False)
    assert result.returncode == EXIT_CODE
    assert DESTROYED not in result.stderr
    assert "--ckpt_path last continues it" in result.stderr


@pytest.mark.long
def test_without_a_fault_the_process_group_is_left_to_lightning(tmp_path):
    result = train(tmp_path, training(2, "raise"), launcher=False)  # there is no rank 2
    assert result.returncode == 0
    assert result.stderr.count(DESTROYED) == 2


@pytest.mark.long
def test_processes_that_cannot_connect_are_refused_with_what_to_set(tmp_path):
    """DDP's own group is up, as NCCL's would be; the one for the agreement on signals finds no network."""
    result = train(tmp_path, training(0, "no network"))
    assert result.returncode == MISTAKE
    for part in ("Unable to find address for: none0", "GLOO_SOCKET_IFNAME is none0", "MASTER_ADDR"):
        assert result.stderr.count(part) == 1  # by rank 0 alone
    assert "Traceback" not in result.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("rank", "kind", "shown"),
    [
        (1, "hang", LATE),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (0, "raise", "a fault in rank 0"),
                (1, "exit", "rank 1 (process"),
                (1, "kill", "was killed by SIGKILL"),
                (0, "kill", "was killed by SIGKILL"),
                (0, "hang", LATE),
                (1, "hang in validation", LATE),
            )
        ),
    ],
)
def test_every_other_end_of_a_process(tmp_path, rank, kind, shown):
    result = train(tmp_path, training(rank, kind, "--ddp.timeout_minutes", "0.25"))
    assert result.returncode not in (0, EXIT_CODE)
    assert shown in result.stderr


def _meets_nobody(rank, world, folder):
    with process_group(rank, world, folder):
        if rank == 0:
            with pytest.raises(RuntimeError, match="timeout") as error:
                Agreement(timedelta(seconds=1))
            assert "GLOO_SOCKET_IFNAME" not in str(error.value)
            assert lost_another_process(error.value)
            (folder / "over").touch()
        while not (folder / "over").exists():
            time.sleep(0.05)
    os._exit(0)  # the groups are not whole


@pytest.mark.long
def test_a_process_that_is_late_is_no_trouble_of_the_network(tmp_path):
    spawn(_meets_nobody, 2, tmp_path)
    assert (tmp_path / "over").exists()


def test_a_lost_connection_is_told_from_an_error_of_ones_own():
    assert lost_another_process(RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:36755"))
    assert lost_another_process(torch.distributed.DistStoreError("Timed out after 7 seconds waiting for clients."))
    assert not lost_another_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_another_process(ValueError("timeout_minutes must be positive"))


def test_settings_out_of_range_are_refused():
    for wrong in ({"timeout_minutes": 0}, {"gradient_compression": "fp8"}):
        with pytest.raises(ValueError, match=f"ddp.{next(iter(wrong))} must"):
            register_ddp(**wrong)
