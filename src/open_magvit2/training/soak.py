"""A soak test: a training killed at random moments and continued each time ends bitwise as an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from open_magvit2.common import checkpoints
from open_magvit2.training.atomic_checkpoints import damage
from open_magvit2.training.preemption import EXIT_CODE

_SETTINGS = {
    "data.init_args.train.init_args.num_images": 44,  # five steps an epoch, four images left over
    "data.init_args.num_workers": 1,
    "model.init_args.usage_window": 4,
    "trainer.val_check_interval": 7,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_model_summary": "false",
    "checkpoint.every_steps": 3,
    "checkpoint.every_minutes": 0.02,
}
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
_NOT_COMPARED = ("provenance",)  # of a checkpoint: the command and its output folder
_LONGEST_EXIT_SECONDS = 120


class Kill(TypedDict):
    """One signal to a training, and what it left behind."""

    signal: str
    to: str  # "main process" or "process group"
    seconds: float  # from the start of the process to its end
    continued_from: int  # the step
    saved: int  # the newest step that is saved
    exit_code: int
    left_partial_files: int
    newest_is_whole: bool


@dataclass(frozen=True)
class Training:
    """A small training by command line that begins in a folder, or continues what lies there.

    Args:
        repository: its scripts and configs are run.
        steps: of the whole run.
        flags: more of them for scripts/train.py.
    """

    repository: Path
    steps: int
    flags: Sequence[str] = ()

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Run it in a process group of its own; what it says is appended to log.txt in the folder."""
        settings = {**_SETTINGS, "trainer.max_steps": self.steps, "trainer.logger.init_args.save_dir": folder}
        configs = self.repository / "configs" / "image_tokenizer"
        command = [sys.executable, self.repository / "scripts" / "train.py", "fit", "--ckpt_path", "last"]
        command += ["--config", configs / "base.yaml", "--config", configs / "debug.yaml"]
        command += [word for name, value in settings.items() for word in (f"--{name}", value)]
        words = [str(word) for word in (*command, *self.flags)]
        with open(folder / "log.txt", "a") as log:
            return subprocess.Popen(words, stderr=log, stdout=log, start_new_session=True)


def kill_repeatedly(training: Training, folder: Path, num_kills: int, seed: int) -> Iterator[Kill]:
    """Start the training, kill it at a random moment, continue it, and so on.

    Args:
        training: what to run.
        folder: of the run; exists.
        num_kills: how often to kill, at least once. There are fewer if the training ends before.
        seed: of the moments and signals. Moments depend on the machine's speed as well.

    Yields:
        each kill when it is over.
    """
    choose = random.Random(seed)
    advance = max(1, training.steps // (2 * num_kills))  # it runs on until the signal arrives
    for _ in range(num_kills):
        kill = _kill_once(training, folder, choose, advance)
        if kill is None:
            return
        yield kill


def _kill_once(training: Training, folder: Path, choose: random.Random, advance: int) -> Kill | None:
    """None if the training ended before."""
    began, number, whole_group = time.monotonic(), choose.choice(_SIGNALS), choose.random() < 0.5
    before, process = _last_step(folder), training.start(folder)
    target, pause = before + choose.randint(1, advance), choose.uniform(0, 0.5)
    if choose.random() < 0.15:
        target, pause = before, choose.uniform(0, 10)  # while it starts
    while process.poll() is None and _last_step(folder) < target:
        time.sleep(0.005)
    try:
        process.wait(pause)
        return None
    except subprocess.TimeoutExpired:
        (os.killpg if whole_group else os.kill)(process.pid, number)
    code = process.wait(_LONGEST_EXIT_SECONDS)
    return {
        "signal": number.name,
        "to": "process group" if whole_group else "main process",
        "seconds": round(time.monotonic() - began, 2),
        "continued_from": before,
        "saved": _last_step(folder),
        "exit_code": code,
        "left_partial_files": len(list(folder.rglob(".*.partial"))),
        "newest_is_whole": all(damage(path) is None for path in folder.rglob("last.ckpt")),
    }


def _last_step(folder: Path) -> int:
    """The newest step that is saved, 0 if none is."""
    return max((int(path.stem.removeprefix("step_")) for path in folder.rglob("step_*.ckpt")), default=0)


def wrong_exit_codes(kills: Sequence[Kill]) -> list[Kill]:
    """Kills by a signal that asks to stop, of a training that had begun to save, which did not end it with 75."""
    asked = [kill for kill in kills if kill["signal"] != "SIGKILL" and kill["saved"] > kill["continued_from"]]
    return [kill for kill in asked if kill["exit_code"] != EXIT_CODE]


def differences(undisturbed: Path, disturbed: Path) -> list[str]:
    """Where two finished runs differ, bit by bit: last.ckpt, best.ckpt, and all that was logged but the speed.

    Returns:
        paths such as last.ckpt.state_dict.NAME and logged.train/NAME; none if the runs are the same.
    """
    states = [
        {name: _state(folder, name) for name in ("last.ckpt", "best.ckpt")} for folder in (undisturbed, disturbed)
    ]
    logged = [_scalars(folder) for folder in (undisturbed, disturbed)]
    return checkpoints.differences(*states) + checkpoints.differences(*logged, "logged")


def _state(folder: Path, name: str) -> dict[str, Any]:
    """A checkpoint of a run without what names the run."""
    (path,) = folder.rglob(name)
    content = checkpoints.read(path)
    del content["callbacks"]["TrainingCheckpoint"]["dirpath"]
    return {key: value for key, value in content.items() if key not in _NOT_COMPARED}


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Everything logged, by name and step, but the speed."""
    (events,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
    names = [name for name in accumulator.Tags()["scalars"] if name != "train/images_per_second"]
    found = {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}
    # a run killed between a validation and the save after it validates again: the same figure twice
    return {name: sorted(set(v)) if name.startswith("validation/") else v for name, v in found.items()}
