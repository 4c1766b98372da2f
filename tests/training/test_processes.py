"""One process of two fails, by command line: both end, soon, and the cause is on the screen."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import ROOT, run
from lightning_fabric.utilities import distributed as lightning_distributed
from processes import process_group, spawn

from open_magvit2.training.cli import MISTAKE
from open_magvit2.training.preemption import EXIT_CODE, Agreement
from open_magvit2.training.processes import EndTogether, lost_another_process

DESTROYED = "the process group is destroyed"  # says `faults.Fault` in the place of Lightning under NCCL
CONFIGS = ROOT / "configs" / "image_tokenizer"


def train_with_fault(folder: Path, rank: int, kind: str, *flags: str):
    """Two processes on the debug config. Returns when both have closed their output, that is, have ended."""
    return run(
        *(sys.executable, ROOT / "scripts/train.py", "fit"),
        *("--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.callbacks+=faults.Fault"),
        *("--trainer.callbacks.rank", rank, "--trainer.callbacks.kind", kind, *flags),
        folder=folder,
        check=False,
        PYTHONPATH=f"{ROOT / 'src'}:{ROOT / 'tests'}",
    )


def test_an_error_in_one_process_ends_both_and_is_shown(tmp_path):
    result = train_with_fault(tmp_path, 1, "raise")
    assert result.returncode not in (0, None)
    assert "RuntimeError: a fault in rank 1" in result.stderr
    assert "local rank 1 (process" in result.stderr
    assert "failed with exit code 1" in result.stderr
    assert DESTROYED not in result.stderr  # which would wait for the other rank


def test_a_signal_to_all_is_no_failure(tmp_path):
    """Although the first process takes longer to end than Lightning lets it after the end of another."""
    result = train_with_fault(tmp_path, 0, "signal", "--trainer.callbacks.seconds_to_end", "7")
    assert result.returncode == EXIT_CODE
    assert "failed with exit code" not in result.stderr
    assert DESTROYED not in result.stderr
    assert "--ckpt_path last continues it" in result.stderr


def test_without_a_fault_the_process_group_is_left_to_lightning(tmp_path):
    result = train_with_fault(tmp_path, 2, "raise")  # there is no rank 2
    assert result.returncode == 0
    assert result.stderr.count(DESTROYED) == 2


def test_a_process_that_was_ended_here_is_not_called_failed(caplog):
    """Unlike one that somebody else has killed."""
    ending = EndTogether(grace_seconds=0)
    ending._started = {1: subprocess.Popen(["sleep", "60"]), 2: subprocess.Popen(["sleep", "60"])}
    ending.on_exception(None, None, KeyboardInterrupt())
    assert [process.wait(300) for process in ending._started.values()] == [-signal.SIGKILL] * 2
    for process in ending._started.values():
        ending._name_when_failed(process)
    assert not ending.has_named
    assert "was still running and is ended" in caplog.text
    assert "SIGKILL" not in caplog.text
    ending._started[3] = subprocess.Popen(["sleep", "60"])
    ending._started[3].kill()
    ending._name_when_failed(ending._started[3])
    assert "local rank 3" in caplog.text.splitlines()[-1]
    assert "was killed (SIGKILL" in caplog.text


def test_an_end_is_named_by_its_own_thread(caplog):
    ending = EndTogether()
    process = subprocess.Popen(["sh", "-c", "sleep 0.3; exit 7"])
    ending.setup(SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[process]))), None, "fit")
    while process.poll() is None:
        time.sleep(0.001)
    deadline = time.monotonic() + 300
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "local rank 1" in caplog.text
    assert "failed with exit code 7" in caplog.text


def test_another_lightning_may_not_destroy_process_groups(monkeypatch):
    monkeypatch.delattr(lightning_distributed, "_destroy_dist_connection")
    EndTogether().on_exception(None, None, RuntimeError())


def test_when_the_first_process_is_killed_the_others_end(tmp_path):
    result = train_with_fault(tmp_path, 0, "kill")
    assert result.returncode == -9
    assert "of this training" in result.stderr or "another process is gone" in result.stderr


def test_processes_that_cannot_connect_are_refused_with_what_to_set(tmp_path):
    """DDP's own group is up, as NCCL's would be; the one for agreement on signals finds no network."""
    result = train_with_fault(tmp_path, 0, "no network")
    assert result.returncode == MISTAKE
    assert "error: the processes cannot connect over gloo: " in result.stderr
    assert "Unable to find address for: none0" in result.stderr
    assert "GLOO_SOCKET_IFNAME is none0" in result.stderr
    assert "the network interface that reaches MASTER_ADDR" in result.stderr
    assert "Traceback" not in result.stderr


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


def test_a_process_that_is_late_is_no_trouble_of_the_network(tmp_path):
    spawn(_meets_nobody, 2, tmp_path)
    assert (tmp_path / "over").exists()


LATE = "did not answer within processes.timeout_minutes"


@pytest.mark.parametrize(
    ("rank", "kind", "shown"),
    [
        (1, "hang", LATE),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (0, "raise", "a fault in rank 0"),
                (1, "exit", "failed with exit code 7"),
                (1, "kill", "was killed (SIGKILL"),
                (0, "hang", LATE),
                (1, "hang in validation", LATE),
            )
        ),
    ],
)
def test_every_other_end_of_a_process(tmp_path, rank, kind, shown):
    flags = ["--processes.timeout_minutes", "0.5", "--processes.grace_seconds", "3"]
    result = train_with_fault(tmp_path, rank, kind, *flags)
    assert result.returncode != 0
    assert shown in result.stderr


def test_a_lost_connection_is_told_from_an_error_of_ones_own():
    assert lost_another_process(RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:36755"))
    assert lost_another_process(torch.distributed.DistStoreError("Timed out after 7 seconds waiting for clients."))
    assert not lost_another_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_another_process(ValueError("timeout_minutes must be positive"))


def test_settings_out_of_range_are_refused():
    for wrong in ({"timeout_minutes": 0}, {"grace_seconds": -1}, {"gradient_compression": "fp8"}):
        with pytest.raises(ValueError, match=f"processes.{next(iter(wrong))} must"):
            EndTogether(**wrong)
