#!/usr/bin/env python3
"""Kill a small training at random moments, continue it each time, and compare it bit by bit with an undisturbed one.

    python scripts/soak.py --kills 20 --output outputs/soak

Other flags go to the training, e.g. --trainer.devices 2 --trainer.strategy ddp. Leaves soak.json in the output folder,
with every kill; ends with 1 if anything differs.
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
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from open_magvit2.common import checkpoints
from open_magvit2.training.atomic_checkpoints import damage
from open_magvit2.training.preemption import EXIT_CODE

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "image_tokenizer"
SETTINGS = {
    "data.init_args.train.init_args.num_images": 44,  # five steps an epoch, four images left over
    "data.init_args.num_workers": 1,
    "model.init_args.usage_window": 4,
    "trainer.val_check_interval": 7,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_model_summary": "false",
    "checkpoint.every_steps": 3,
    "checkpoint.every_minutes": 0.02,
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
NOT_COMPARED = ("provenance",)  # of a checkpoint: the command and its output folder


def start(folder: Path, steps: int, flags: list[str]) -> subprocess.Popen:
    """The training, in a process group of its own; it begins or continues."""
    settings = {**SETTINGS, "trainer.max_steps": steps, "trainer.logger.init_args.save_dir": folder}
    command = [sys.executable, ROOT / "scripts" / "train.py", "fit", "--ckpt_path", "last"]
    command += ["--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml"]
    command += [word for name, value in settings.items() for word in (f"--{name}", value)]
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen([str(word) for word in command + flags], stderr=log, stdout=log, start_new_session=True)


def last_step(folder: Path) -> int:
    """The newest step that is saved, 0 if none is."""
    return max((int(p.stem.removeprefix("step_")) for p in folder.rglob("step_*.ckpt")), default=0)


def kill_once(folder: Path, steps: int, flags: list[str], choose: random.Random, advance: int) -> dict | None:
    """Start or continue the training and kill it at a random moment; None if it ended before."""
    began, number, whole_group = time.monotonic(), choose.choice(SIGNALS), choose.random() < 0.5
    before, process = last_step(folder), start(folder, steps, flags)
    target, pause = before + choose.randint(1, advance), choose.uniform(0, 0.5)
    if choose.random() < 0.15:
        target, pause = before, choose.uniform(0, 10)  # while it starts
    while process.poll() is None and last_step(folder) < target:
        time.sleep(0.005)
    try:
        process.wait(pause)
        return None
    except subprocess.TimeoutExpired:
        (os.killpg if whole_group else os.kill)(process.pid, number)
    code = process.wait(120)
    kill = {
        "signal": number.name,
        "to": "process group" if whole_group else "main process",
        "seconds": round(time.monotonic() - began, 2),
        "continued_from": before,
        "saved": last_step(folder),
        "exit_code": code,
        "left_partial_files": len(list(folder.rglob(".*.partial"))),
        "newest_is_whole": all(damage(p) is None for p in folder.rglob("last.ckpt")),
    }
    print(json.dumps(kill), flush=True)
    return kill


def state(folder: Path, name: str) -> dict:
    """A checkpoint of a run without what names the run."""
    (path,) = folder.rglob(name)
    content = checkpoints.read(path)
    del content["callbacks"]["TrainingCheckpoint"]["dirpath"]
    return {key: value for key, value in content.items() if key not in NOT_COMPARED}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Everything logged, by name and step, but the speed."""
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
    parser.add_argument("--output", type=Path, default=Path("outputs/soak"), help="folder; emptied first")
    arguments, flags = parser.parse_known_args()
    logging.basicConfig(level=logging.WARNING)
    disturbed, undisturbed = (arguments.output.absolute() / name for name in ("disturbed", "undisturbed"))
    for folder in (disturbed, undisturbed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    choose, kills = random.Random(arguments.seed), []
    advance = max(1, arguments.steps // (2 * arguments.kills))  # it runs on until the signal arrives
    while len(kills) < arguments.kills:
        kill = kill_once(disturbed, arguments.steps, flags, choose, advance)
        if kill is None:
            break
        kills.append(kill)
    codes = [start(folder, arguments.steps, flags).wait() for folder in (disturbed, undisturbed)]
    if any(codes):
        print(f"the training failed with {codes}, see {disturbed}/log.txt and {undisturbed}/log.txt")
        return 1
    differences = checkpoints.differences(
        *({name: state(f, name) for name in ("last.ckpt", "best.ckpt")} for f in (undisturbed, disturbed))
    )
    differences += checkpoints.differences(scalars(undisturbed), scalars(disturbed), "logged")
    wrong_codes = [
        kill
        for kill in kills
        if kill["signal"] != "SIGKILL" and kill["saved"] > kill["continued_from"] and kill["exit_code"] != EXIT_CODE
    ]
    result = {
        "kills": kills,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "flags": flags,
        "differences": differences,
    }
    (arguments.output / "soak.json").write_text(json.dumps(result, indent=1))
    print(f"{len(kills)} kills in {arguments.steps} steps; {len(wrong_codes)} exit codes other than {EXIT_CODE}")
    print(f"{len(differences)} differences {differences[:10]}")
    enough = len(kills) == arguments.kills
    return 0 if enough and not differences and not wrong_codes and all(kill["newest_is_whole"] for kill in kills) else 1


if __name__ == "__main__":
    sys.exit(main())
