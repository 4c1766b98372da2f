#!/usr/bin/env python
"""Evaluate a tokenizer: results.json with every figure and its provenance, a Markdown row, an HTML page.

python scripts/evaluate.py --checkpoint imagenet_256_B.ckpt --images data/imagenet/val --image-size 256 --output outputs
torchrun --nproc_per_node 8 scripts/evaluate.py ...   # the same on eight GPUs
python scripts/evaluate.py --table configs/evaluation/table.yaml --output outputs/table   # several, compared
"""

import argparse
from pathlib import Path
from typing import Any

from open_magvit2.common.devices import processes
from open_magvit2.common.distributed import rank
from open_magvit2.common.errors import short_errors
from open_magvit2.data.checking import leave_out_broken
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.evaluation import command_line, originals, provenance, table
from open_magvit2.evaluation.report import write
from open_magvit2.evaluation.run import ImageSource, Setting, evaluate_checkpoint

PROTOCOLS = Path(__file__).resolve().parents[1] / "configs" / "evaluation"


def image_source(args: argparse.Namespace) -> ImageSource | None:
    """The images of the command line in the form that a protocol asks for, or None if there are none."""
    if args.images:
        images = ImageFolder(args.images, args.file_list)
        facts = provenance.folder(args.images, images.relative_paths(), args.file_list, args.fingerprint == "full")
        facts["skipped"] = leave_out_broken(images, args.num_workers) if args.skip_broken else {}
        return lambda resize, size: (TransformedDataset(images, originals.make_transform(resize, size)), facts)

    def draw(resize: str, size: tuple[int, int] | None) -> tuple[TransformedDataset, dict[str, Any]]:
        side = max(size) if size else 128
        drawn = SyntheticImages(args.built_in, side, split="validation")
        facts = provenance.drawn(f"SyntheticImages validation {side}", args.built_in)
        return TransformedDataset(drawn, originals.make_transform(resize, size)), facts

    return None if args.built_in is None else draw


def main() -> None:
    args, rows = command_line.parse_evaluate(__doc__, PROTOCOLS), []
    with short_errors(), processes(args.device) as device:
        images, how = image_source(args), (args.limit, args.batch_size, args.num_workers, args.check)
        rest = {"allow_cross_resolution": args.allow_cross_resolution, "allowed_modules": args.allow_modules}
        setting = Setting(images, device, *how, **rest) if images else None
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
