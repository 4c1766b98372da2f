"""Kill a small training at random moments, continue it each time, and compare it bit by bit with an undisturbed one.

    python tests/soak/soak.py --kills 20 --output outputs/soak
    python tests/soak/soak.py --kills 20 --output outputs/soak --processes 2

Other flags go to the training. Every kill and the comparison are written to soak.json in the output folder; the exit
code is 1 if anything differs.
"""

import argparse
import json
import logging
import os
import random
import shutil
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
from open_magvit2.training.resume.checkpoint_files import damage
from open_magvit2.training.resume.preemption import EXIT_CODE

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
_ROOT = Path(__file__).resolve().parents[2]


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
    """A small training by command line that begins in a folder, or continues what is there.

    Args:
        steps: of the whole run.
        processes: DDP processes over gloo, started as scripts/launch.sh starts them; 1 without DDP.
        flags: more of them for scripts/train.py.
    """

    steps: int
    processes: int = 1
    flags: Sequence[str] = ()

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Run it in a process group of its own; its output is appended to log.txt in the folder."""
        settings = {**_SETTINGS, "trainer.max_steps": self.steps, "trainer.logger.init_args.save_dir": folder}
        configs = _ROOT / "configs" / "image_tokenizer"
        command = [sys.executable, _ROOT / "scripts" / "train.py", "fit", "--ckpt_path", "last"]
        if self.processes > 1:
            launch = _ROOT / "src" / "open_magvit2" / "training" / "launch.py"
            command = [sys.executable, launch, "--processes", self.processes, *command]
            settings |= {"trainer.devices": self.processes, "trainer.strategy": "ddp"}
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
        num_kills: how often to kill; fewer if the training ends before.
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
    code = process.wait()
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
    """Signals that ask to stop to a training that had begun to save, and did not end with 75."""
    asked = [kill for kill in kills if kill["signal"] != "SIGKILL" and kill["saved"] > kill["continued_from"]]
    return [kill for kill in asked if kill["exit_code"] != EXIT_CODE]


def differences(undisturbed: Path, disturbed: Path) -> list[str]:
    """Where two finished runs differ, bit by bit: last.ckpt, best.ckpt, and everything logged except the speed.

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
    """Everything logged except the speed, by name and step."""
    (events,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
    names = [name for name in accumulator.Tags()["scalars"] if name != "train/images_per_second"]
    found = {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}
    # a run killed between a validation and the save after it validates again: the same figure twice
    return {name: sorted(set(v)) if name.startswith("validation/") else v for name, v in found.items()}


def main() -> int:
    """Run both trainings, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill the training")
    parser.add_argument("--steps", type=int, default=200, help="training steps of the whole run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--processes", type=int, default=1, help="DDP processes")
    parser.add_argument("--output", type=Path, default=Path("outputs/soak"), help="folder; emptied first")
    args, flags = parser.parse_known_args()
    if min(args.kills, args.steps, args.processes) < 1:
        parser.error(f"expected 1 or more, got --kills {args.kills} --steps {args.steps} --processes {args.processes}")
    logging.basicConfig(level=logging.WARNING)
    disturbed, undisturbed = (args.output.absolute() / name for name in ("disturbed", "undisturbed"))
    for folder in (disturbed, undisturbed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    training, kills = Training(args.steps, args.processes, flags), []
    for kill in kill_repeatedly(training, disturbed, args.kills, args.seed):
        kills.append(kill)
        print(json.dumps(kill), flush=True)
    codes = [training.start(folder).wait() for folder in (disturbed, undisturbed)]
    if any(codes):
        print(f"the training failed with {codes}, see {disturbed}/log.txt and {undisturbed}/log.txt")
        return 1
    found, wrong = differences(undisturbed, disturbed), wrong_exit_codes(kills)
    result = {"kills": kills, "steps": args.steps, "seed": args.seed, "flags": flags, "differences": found}
    (args.output / "soak.json").write_text(json.dumps(result, indent=1))
    print(f"{len(kills)} kills in {args.steps} steps; {len(wrong)} exit codes other than {EXIT_CODE}")
    print(f"{len(found)} differences {found[:10]}")
    whole = len(kills) == args.kills and all(kill["newest_is_whole"] for kill in kills)
    return 0 if whole and not found and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
