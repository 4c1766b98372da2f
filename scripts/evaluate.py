#!/usr/bin/env python
"""Evaluate a tokenizer, or generated images: results.json with every figure, a Markdown row, an HTML page.

python scripts/evaluate.py --checkpoint imagenet_256_B.ckpt --images data/imagenet/val --image-size 256 --output outputs
torchrun --nproc_per_node 8 scripts/evaluate.py ...   # the same on eight GPUs
python scripts/evaluate.py --table configs/evaluation/table.yaml --output outputs/table   # several, compared
python scripts/evaluate.py --samples outputs/samples --reference VIRTUAL_imagenet256_labeled.npz --output outputs
python scripts/evaluate.py --generator AR_256_B.ckpt --sweep guidance=1.5,1.75,2 --reference ... --output outputs/sweep
"""

import sys
from functools import partial
from pathlib import Path

from open_magvit2 import load_tokenizer
from open_magvit2.common.devices import processes
from open_magvit2.common.distributed import rank
from open_magvit2.common.errors import short_errors
from open_magvit2.evaluation import command_line, downloads, generation_command_line, made_elsewhere, table
from open_magvit2.evaluation.report import write
from open_magvit2.evaluation.run import Setting, evaluate_checkpoint
from open_magvit2.evaluation.sources import image_source
from open_magvit2.generators.on_the_fly import Maker

PROTOCOLS = Path(__file__).resolve().parents[1] / "configs" / "evaluation"


def main() -> None:
    args, rows = command_line.parse_evaluate(__doc__, PROTOCOLS), []
    with short_errors(), processes(args.device) as device:
        images, how = image_source(args), (args.limit, args.batch_size, args.num_workers, args.check)
        rest = {"allow_cross_resolution": args.allow_cross_resolution, "allowed_modules": args.allow_modules}
        setting = Setting(images, device, *how, **rest) if images else None
        if args.table:
            fetched = downloads.fetch_once(args.rows, args.checkpoints, print) if args.download else {}
            more = (args.kind, args.common, fetched)
            rows = table.compare(args.rows, args.output, args.checkpoints, setting, *more)
        elif args.originals:
            run = made_elsewhere.evaluate(args, device)
        else:
            what = (args.checkpoint, args.tokenizer, args.chosen, args.image_size)
            run = evaluate_checkpoint(*what, setting, args.method, args.train_data)
        if rank() == 0:
            print(write.table_files(args.output, rows, args.kind) if args.table else write.run_files(args.output, run))
    raise SystemExit(any(row["error"] for row in rows))


def generation() -> None:
    args = generation_command_line.parse(__doc__, PROTOCOLS)
    with short_errors(), processes(args.device) as device:
        # Rooms meet here: the evaluation knows no generator.
        make = partial(Maker, args, load_tokenizer, device) if args.samples is None else None
        text = generation_command_line.evaluate(args, device, make)
        if rank() == 0:
            print(text)


if __name__ == "__main__":
    generation() if generation_command_line.is_meant(sys.argv[1:]) else main()
