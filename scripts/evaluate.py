#!/usr/bin/env python
"""Evaluate an image tokenizer: results.json with every figure and its provenance, a Markdown row, an HTML page.

python scripts/evaluate.py --checkpoint imagenet_256_B.ckpt --images data/imagenet/val --image-size 256 --output outputs
torchrun --nproc_per_node 8 scripts/evaluate.py ...   # the same on eight GPUs
python scripts/evaluate.py --table configs/evaluation/table.yaml --output outputs/table   # several, compared
"""

import argparse
from pathlib import Path
from typing import Any

from open_magvit2.common.distributed import rank
from open_magvit2.data.checking import leave_out_broken
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.evaluation import command_line, originals, provenance, report, table
from open_magvit2.evaluation.checkpoint import ImageSource, Setting, evaluate_checkpoint
from open_magvit2.evaluation.loading import processes
from open_magvit2.evaluation.results import Loading

PROTOCOLS = Path(__file__).resolve().parents[1] / "configs" / "evaluation"


def image_source(given: argparse.Namespace) -> ImageSource | None:
    """The images of the command line in the form a protocol asks for, or None if there are none."""
    if given.images:
        images = ImageFolder(given.images, given.file_list)
        facts = provenance.folder(given.images, images.relative_paths(), given.file_list, given.fingerprint == "full")
        facts["skipped"] = leave_out_broken(images, given.num_workers) if given.skip_broken else {}
        return lambda resize, size: (TransformedDataset(images, originals.make_transform(resize, size)), facts)

    def draw(resize: str, size: int | None) -> tuple[TransformedDataset, dict[str, Any]]:
        drawn = SyntheticImages(given.built_in, size, split="validation")
        facts = provenance.drawn(f"SyntheticImages validation {size}", given.built_in)
        return TransformedDataset(drawn, originals.make_transform(resize, size)), facts

    return None if given.built_in is None else draw


def main() -> None:
    given, compared = command_line.parse(__doc__, PROTOCOLS), []
    with command_line.short_errors(), processes(given.device) as device:
        loading, source = Loading(given.limit, given.batch_size, given.num_workers), image_source(given)
        cross = given.allow_cross_resolution
        setting = Setting(source, device, loading, given.check, allow_cross_resolution=cross) if source else None
        if given.table:
            compared = table.compare(given.rows, given.output, given.checkpoints, setting)
        else:
            run = evaluate_checkpoint(given.checkpoint, given.tokenizer, given.chosen, given.image_size, setting)
        if rank() == 0:
            files = table.write(given.output, compared) if given.table else None
            print(files or report.write(given.output, run, given.method, given.train_data))
    raise SystemExit(any(row["error"] for row in compared))


if __name__ == "__main__":
    main()
