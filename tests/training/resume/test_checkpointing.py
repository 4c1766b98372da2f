"""When a training is saved, which files stay, and how it leaves on a signal."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest
from interruptions import Crash, CrashAt, Record, content, fit
from pytorch_lightning.callbacks import Callback

from open_magvit2.common import checkpoints
from open_magvit2.common.files import claim
from open_magvit2.training.resume.checkpoint_files import newest_whole
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint
from open_magvit2.training.resume.preemption import EXIT_CODE


def step_of(path) -> int:
    return checkpoints.read(path)["global_step"]


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ckpt"))


class Steps(Callback):
    """The step of every save, in order."""

    def __init__(self) -> None:
        self.saved: list[int] = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.saved.append(trainer.global_step)


@pytest.mark.parametrize(
    ("saving", "expected"),
    [
        ({"every_steps": 4}, [3, 3, 4, 6, 6, 8, 9, 9, 10]),
        ({"every_steps": None, "every_minutes": None}, [3, 3, 6, 6, 9, 9, 10]),
        ({"every_steps": None, "every_minutes": 1e-9}, [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10]),
    ],
)
def test_saved_by_steps_by_minutes_around_validation_and_at_the_end(tmp_path, saving, expected):
    steps = Steps()
    fit(tmp_path, Record(), steps, saving=saving)
    assert steps.saved == expected


def test_the_newest_files_stay_and_the_best_by_the_named_figure(tmp_path):
    record = Record()
    fit(
        tmp_path,
        record,
        saving={"every_steps": 2, "keep_last": 3, "monitor": "validation/codebook_used", "mode": "min"},
    )
    assert files(tmp_path) == ["best.ckpt", "last.ckpt", *(f"step_{step:09d}.ckpt" for step in (8, 9, 10))]
    assert step_of(tmp_path / "last.ckpt") == 10
    figures = {step: value for (name, step), value in record.scalars.items() if name == "validation/codebook_used"}
    assert step_of(tmp_path / "best.ckpt") == min(figures, key=figures.get)  # the first of equals


def test_files_from_the_future_do_not_displace_what_is_written(tmp_path, caplog):
    fit(tmp_path, Record(), max_steps=4)
    later = time.time() + 3600
    for path in tmp_path.glob("*.ckpt"):
        os.utime(path, (later, later))
    fit(tmp_path, Record(), continued=True, max_steps=6)
    assert files(tmp_path) == ["best.ckpt", "last.ckpt", "step_000000005.ckpt", "step_000000006.ckpt"]
    assert newest_whole(tmp_path.glob("*.ckpt")).name == "step_000000006.ckpt"
    assert "later step" not in caplog.text
    fit(tmp_path, Record(), max_steps=2)  # another run in the same folder
    assert f"{tmp_path / 'step_000000006.ckpt'} is of a later step" in caplog.text
    assert files(tmp_path)[-4:] == [f"step_{step:09d}.ckpt" for step in (1, 2, 5, 6)]


def _claim_and_wait(folder, reached):
    claimed = claim(folder, "")
    reached.touch()
    time.sleep(3600)
    claimed.close()


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_gone(tmp_path):
    folder, reached = tmp_path / "run", tmp_path / "reached"
    process = multiprocessing.get_context("fork").Process(target=_claim_and_wait, args=(folder, reached))
    process.start()
    while not reached.exists():
        assert process.is_alive()
        time.sleep(0.01)
    expected = rf"{folder} belongs to process {process.pid} on {socket.gethostname()} \(since 20"
    with pytest.raises(ValueError, match=expected):
        fit(folder, Record(), max_steps=1)
    process.kill()
    process.join()
    fit(folder, Record(), max_steps=1)
    assert step_of(folder / "last.ckpt") == 1


def test_a_figure_that_is_not_logged_is_refused_at_the_start_and_ends_no_continued_run(tmp_path, caplog):
    saving = {"monitor": "validation/fid"}
    with pytest.raises(ValueError, match=r"monitor is 'validation/fid', which validation does not log;(.|\n)*psnr"):
        fit(tmp_path, Record(), saving=saving, num_sanity_val_steps=1)
    fit(tmp_path, Record(), max_steps=1)
    (tmp_path / "best.ckpt").unlink(missing_ok=True)
    assert fit(tmp_path, Record(), continued=True, saving=saving, max_steps=4).global_step == 4
    assert "validation/fid is not logged by validation" in caplog.text
    assert not (tmp_path / "best.ckpt").exists()


def test_impossible_settings_are_refused():
    for options, message in (
        ({"keep_last": 0}, "keep_last must be at least 1"),
        ({"every_steps": 0}, "every_steps must be at least 1"),
        ({"every_minutes": 0}, "every_minutes must be above 0"),
        ({"mode": "best"}, "mode must be min or max"),
        ({"signals": ["SIGFOO"]}, "no such signals: SIGFOO"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainingCheckpoint(**options)


class SignalIn(Callback):
    """Sends this process a real signal from within one hook at one step."""

    def __init__(self, hook: str, step: int, number: int) -> None:
        self.step, self.number = step, number
        setattr(self, hook, self._send)

    def _send(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.long
@pytest.mark.parametrize(
    ("hook", "step", "number", "saved"),
    [
        ("on_train_batch_start", 4, signal.SIGTERM, 5),  # the step ends first
        ("on_validation_batch_start", 6, signal.SIGUSR1, 6),  # saved before the validation, which is made up for
    ],
)
def test_a_signal_saves_leaves_with_its_code_and_the_run_goes_on(tmp_path, caplog, hook, step, number, saved):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    records, saving = (Record(), Record()), {"every_steps": 100}
    fit(tmp_path / "undisturbed", records[0], saving=saving)
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as stop:
        fit(tmp_path / "disturbed", records[1], SignalIn(hook, step, number), saving=saving)
    assert stop.value.code == EXIT_CODE == 75
    assert f"{signal.Signals(number).name}: stopping, saved at step {saved} in " in caplog.text
    assert step_of(tmp_path / "disturbed" / "last.ckpt") == saved
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    fit(tmp_path / "disturbed", records[1], continued=True, saving=saving)
    last = [content(tmp_path / name / "last.ckpt") for name in ("undisturbed", "disturbed")]
    assert checkpoints.differences(*last) == []
    assert records[0].scalars == records[1].scalars


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_train_start"])
def test_a_signal_before_the_first_step_leaves_with_its_code(tmp_path, caplog, hook, number):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    record = Record()
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as stop:
        fit(tmp_path, record, SignalIn(hook, 0, number), num_sanity_val_steps=1)
    assert stop.value.code == EXIT_CODE
    assert f"{signal.Signals(number).name}: stopping, nothing is new since the state it began from" in caplog.text
    assert not files(tmp_path)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert record.scalars == {}


def test_a_signal_in_a_validation_that_is_made_up_for_claims_no_save(tmp_path, caplog):
    for continued in (False, True):
        stop = SignalIn("on_validation_batch_start", 3, signal.SIGUSR1)
        caplog.clear()
        with pytest.raises(SystemExit):
            fit(tmp_path, Record(), stop, continued=continued, saving={"every_steps": 100})
    assert "SIGUSR1: stopping, nothing is new since the state it began from" in caplog.text
    assert step_of(tmp_path / "last.ckpt") == 3


def test_outside_the_main_thread_lightning_keeps_agreeing_on_signals(tmp_path, caplog):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(fit(tmp_path, Record(), max_steps=1)))
    thread.start()
    thread.join()
    assert "does not run in the main thread" in caplog.text
    runs.append(fit(tmp_path, Record(), max_steps=1))
    replaced = ["_broadcast_sigterm_tensor" in vars(run.fit_loop.epoch_loop) for run in runs]
    assert replaced == [False, True]


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """The limit on the size of files stands for the disk; test_checkpoint_files.py fills a real one."""
    import resource

    class Limit(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match=r"step_000000005\.ckpt could not be written"):
            fit(tmp_path, Record(), Limit())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, previous)
    assert step_of(tmp_path / "last.ckpt") == 4
    assert not list(tmp_path.glob(".*.partial"))


def test_another_folder_does_not_inherit_the_best(tmp_path):
    fit(tmp_path / "first", Record(), max_steps=4)
    record = Record()
    with pytest.raises(Crash):
        fit(tmp_path / "second", record, CrashAt("on_train_batch_start", 2))
    (tmp_path / "second" / "last.ckpt").unlink()
    (tmp_path / "first" / "last.ckpt").rename(tmp_path / "second" / "last.ckpt")
    fit(tmp_path / "second", Record(), continued=True, max_steps=6)
    assert step_of(tmp_path / "second" / "best.ckpt") == 6
