#!/usr/bin/env python
"""Evaluate an image tokenizer: results.json with every figure and its provenance, a Markdown row, an HTML page.

python scripts/evaluate.py --checkpoint imagenet_256_B.ckpt --images data/imagenet/val --image-size 256 --output outputs/B
torchrun --nproc_per_node 8 scripts/evaluate.py ...   # the same on eight GPUs
"""

import argparse
import logging
from pathlib import Path

from open_magvit2.common.distributed import rank
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.image_folder import ImageFolder
from open_magvit2.data.synthetic import SyntheticImages
from open_magvit2.evaluation import originals, page, protocol, provenance, report, results, tokenizers
from open_magvit2.evaluation.loading import processes

PROTOCOLS = Path(__file__).resolve().parents[1] / "configs" / "evaluation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--tokenizer", default="open_magvit2", help=f"family: {', '.join(tokenizers.available())}")
    parser.add_argument("--protocol", default="paper", help="a name in configs/evaluation, or a YAML file")
    parser.add_argument("--weights", choices=["averaged", "raw"], help="default: the protocol's")
    parser.add_argument("--metrics", help="comma-separated, default: the protocol's")
    parser.add_argument("--tf32", action=argparse.BooleanOptionalAction, help="default: the protocol's")
    parser.add_argument("--images", help="folder of images, or of class folders")
    parser.add_argument("--file-list", help="text file of paths below --images")
    parser.add_argument("--built-in", type=int, metavar="N", help="N held-out built-in images instead")
    parser.add_argument("--image-size", type=int, help="side of the images; needed unless the protocol keeps theirs")
    parser.add_argument("--limit", type=int, metavar="N", help="N images, evenly spaced; figures are named after it")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    parser.add_argument("--check", choices=["stop", "record", "off"], default="stop", help="of the first batch")
    parser.add_argument("--fast-fingerprint", action="store_true", help="names and sizes of the files only")
    parser.add_argument("--method", default="Open-MAGVIT2", help="name of the Markdown row")
    parser.add_argument("--train-data", default="-", help="for the Markdown row")
    parser.add_argument("--output", required=True, type=Path, help="folder for results.json, row.md, report.html")
    given = parser.parse_args()
    if bool(given.images) == bool(given.built_in):
        parser.error("give either --images FOLDER or --built-in N")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    chosen = protocol.load(given.protocol if given.protocol.endswith(".yaml") else PROTOCOLS / f"{given.protocol}.yaml")
    chosen = chosen.configured(given.weights, given.tf32, given.metrics)
    transform = originals.make_transform(chosen.resize, given.image_size)
    if given.images:
        images, facts = ImageFolder(given.images, given.file_list), provenance.folder(
            given.images, given.file_list, not given.fast_fingerprint
        )
    else:
        images = SyntheticImages(given.built_in, given.image_size, split="validation")
        facts = provenance.built_in(given.built_in, given.image_size)
    with processes(given.device) as device:
        tokenizer = tokenizers.load(given.tokenizer, given.checkpoint, weights=chosen.weights, device=device)
        model = provenance.model(tokenizer, given.tokenizer, given.checkpoint, chosen.weights)
        options = {"limit": given.limit, "batch_size": given.batch_size, "num_workers": given.num_workers}
        run = results.run(
            tokenizer, TransformedDataset(images, transform), chosen, device, facts, model, given.image_size,
            check=given.check, **options,
        )
        if rank() == 0:
            print(report.write(given.output, run, given.method, given.train_data))


if __name__ == "__main__":
    main()
