#!/usr/bin/env python3
"""Kill a small training at random moments, continue it each time, and compare it bit by bit with an undisturbed one.

    python scripts/soak.py --kills 20 --output outputs/soak

Other flags go to the training, e.g. --trainer.devices 2 --trainer.strategy ddp. Leaves soak.json in the output folder,
with every kill; ends with 1 if anything differs.
"""

import argparse
import json
import logging
import shutil
import sys
from pathlib import Path


def main() -> int:
    """Run both trainings, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill the training")
    parser.add_argument("--steps", type=int, default=200, help="training steps of the whole run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--output", type=Path, default=Path("outputs/soak"), help="folder; emptied first")
    given, flags = parser.parse_known_args()
    if min(given.kills, given.steps) < 1:
        parser.error(f"--kills and --steps must be 1 or more, got {given.kills} and {given.steps}")
    from open_magvit2.training import soak  # only now: --help and mistakes need not wait for torch

    logging.basicConfig(level=logging.WARNING)
    disturbed, undisturbed = (given.output.absolute() / name for name in ("disturbed", "undisturbed"))
    for folder in (disturbed, undisturbed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    training, kills = soak.Training(Path(__file__).resolve().parents[1], given.steps, flags), []
    for kill in soak.kill_repeatedly(training, disturbed, given.kills, given.seed):
        kills.append(kill)
        print(json.dumps(kill), flush=True)
    codes = [training.start(folder).wait() for folder in (disturbed, undisturbed)]
    if any(codes):
        print(f"the training failed with {codes}, see {disturbed}/log.txt and {undisturbed}/log.txt")
        return 1
    differences, wrong = soak.differences(undisturbed, disturbed), soak.wrong_exit_codes(kills)
    result = {"kills": kills, "steps": given.steps, "seed": given.seed, "flags": flags, "differences": differences}
    (given.output / "soak.json").write_text(json.dumps(result, indent=1))
    print(f"{len(kills)} kills in {given.steps} steps; {len(wrong)} exit codes other than {soak.EXIT_CODE}")
    print(f"{len(differences)} differences {differences[:10]}")
    whole = len(kills) == given.kills and all(kill["newest_is_whole"] for kill in kills)
    return 0 if whole and not differences and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
