#!/usr/bin/env python
"""Measure speed and memory of the hot paths: benchmark.json, benchmark.md and pictures (docs/performance.md).

python scripts/benchmark.py --output outputs/benchmark               # a GPU at full sizes, else small ones on the CPU
python scripts/benchmark.py --output outputs/benchmark --only entropy,start_up
"""

import argparse
import logging
import sys
from pathlib import Path

from open_magvit2.benchmark.machine import chosen_device
from open_magvit2.benchmark.models import PUBLISHED
from open_magvit2.benchmark.run import SECTIONS, choose, measured_before, run
from open_magvit2.benchmark.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", required=True, type=Path, help="folder; sections measured there before stay until measured again")
    add("--only", metavar="SECTIONS", help=f"comma-separated, of {', '.join(SECTIONS)}; default: all")
    add("--device", help="cpu, cuda or cuda:1; default: a GPU if there is one")
    add("--size", choices=["small", "full"], help="default: full on a GPU, small (minutes on two cores) on a CPU")
    names = [case.name for case in PUBLISHED]
    models_help = "at full size alone; default: all; growth, profiling and scaling take the first"
    add("--models", nargs="+", choices=names, help=models_help)
    add("--batch", type=int, help="images of a step, in training_step and precisions; default: several, 8; small: 2")
    add("--tokens", nargs="+", type=int, metavar="N", help="of the section entropy; default: several")
    add("--bits", nargs="+", type=int, metavar="K", help="of the section entropy: 2^K codes; default: several")
    add("--repeats", type=int, help="measurements behind each median; default: 5 at full size, 3 at small")
    add("--images", type=Path, help="folder of photos for loading and tokenizing; default: images drawn by code")
    add("--checkpoint", type=Path, help="a trained tokenizer: what bf16 does to its tokens (needs --images)")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        chosen = choose(given.only)
        device = chosen_device(given.device)
        full = device.type == "cuda" if given.size is None else given.size == "full"
        if given.models and not full:
            raise ValueError("--models chooses among the published models, measured at full size: add --size full")
        repeats = (5 if full else 3) if given.repeats is None else given.repeats
        root = Path(__file__).resolve().parents[1]
        options = ("models", "batch", "tokens", "bits", "images", "checkpoint")
        settings = Settings(device, full, repeats, **{name: getattr(given, name) for name in options}, repository=root)
        measured_before(given.output)
    except ValueError as error:
        parser.error(str(error))
    failed = run(settings, given.output, chosen)
    print(f"written to {given.output}: benchmark.json, benchmark.md and pictures; failed sections: {failed or 'none'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
