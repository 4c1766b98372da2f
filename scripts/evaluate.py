#!/usr/bin/env python
"""Evaluate a tokenizer: results.json with every figure and its provenance, a Markdown row, an HTML page.

python scripts/evaluate.py --checkpoint imagenet_256_B.ckpt --images data/imagenet/val --image-size 256 --output outputs
torchrun --nproc_per_node 8 scripts/evaluate.py ...   # the same on eight GPUs
python scripts/evaluate.py --table configs/evaluation/table.yaml --output outputs/table   # several, compared
"""

import argparse
from pathlib import Path

from open_magvit2.common.devices import processes
from open_magvit2.common.distributed import rank
from open_magvit2.common.errors import short_errors
from open_magvit2.evaluation import command_line, sources, table
from open_magvit2.evaluation.report import write
from open_magvit2.evaluation.run import ImageSource, Setting, evaluate_checkpoint

PROTOCOLS = Path(__file__).resolve().parents[1] / "configs" / "evaluation"


def image_source(args: argparse.Namespace) -> ImageSource | None:
    """The images of the command line, or None if there are none."""
    if args.images:
        full = args.fingerprint == "full"
        return sources.folder(args.images, args.file_list, args.skip_broken, args.num_workers, full)
    return None if args.built_in is None else sources.built_in(args.built_in)


def main() -> None:
    args, rows = command_line.parse_evaluate(__doc__, PROTOCOLS), []
    with short_errors(), processes(args.device) as device:
        images = image_source(args)
        setting = images and Setting(
            images,
            device,
            limit=args.limit,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            check=args.check,
            allow_cross_resolution=args.allow_cross_resolution,
            allowed_modules=args.allow_modules,
        )
        if args.table:
            rows = table.compare(args.rows, args.output, args.checkpoints, setting, args.kind)
        else:
            what = (args.checkpoint, args.tokenizer, args.chosen, args.image_size)
            run = evaluate_checkpoint(*what, setting, args.method, args.train_data)
        if rank() == 0:
            print(write.table_files(args.output, rows, args.kind) if args.table else write.run_files(args.output, run))
    raise SystemExit(any(row["error"] for row in rows))


if __name__ == "__main__":
    main()
