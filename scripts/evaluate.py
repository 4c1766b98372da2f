#!/usr/bin/env python
"""Evaluate an image tokenizer: results.json with every figure and its provenance, a Markdown row, an HTML page.

python scripts/evaluate.py --checkpoint imagenet_256_B.ckpt --images data/imagenet/val --image-size 256 --output outputs
torchrun --nproc_per_node 8 scripts/evaluate.py ...   # the same on eight GPUs
"""

import argparse
import logging
from pathlib import Path

from open_magvit2.common.distributed import rank
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.image_folder import ImageFolder
from open_magvit2.data.synthetic import SyntheticImages
from open_magvit2.evaluation import originals, protocol, provenance, report, results, tokenizers
from open_magvit2.evaluation.loading import processes

PROTOCOLS = Path(__file__).resolve().parents[1] / "configs" / "evaluation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", required=True)
    add("--tokenizer", default="open_magvit2", choices=tokenizers.available(), help="family of the checkpoint")
    add("--protocol", default="paper", help="a name in configs/evaluation, or a YAML file (default: paper)")
    add("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change the protocol, e.g. weights=raw tf32=true")
    add("--metrics", help="comma-separated; default: the protocol's")
    add("--images", help="folder of images, or of class folders")
    add("--file-list", help="text file of paths below --images")
    add("--built-in", type=int, metavar="N", help="N held-out built-in images instead")
    add("--image-size", type=int, help="side of the images; required unless the protocol keeps their own")
    add("--limit", type=int, metavar="N", help="N images evenly spaced; figures are named after it")
    add("--batch-size", type=int, default=16)
    add("--num-workers", type=int, default=0)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--check", choices=["stop", "record", "off"], default="stop", help="what to do if the first batch looks wrong")
    add("--method", default="Open-MAGVIT2", help="name in the Markdown row and the page")
    add("--train-data", default="-", help="for the Markdown row")
    add("--output", required=True, help="folder for results.json, row.md, report.html")
    given = parser.parse_args()
    if bool(given.images) == bool(given.built_in):
        parser.error("give either --images FOLDER or --built-in N")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    path = given.protocol if given.protocol.endswith(".yaml") else PROTOCOLS / f"{given.protocol}.yaml"
    chosen, size = protocol.load(path).configured(given.set, given.metrics), given.image_size
    transform = originals.make_transform(chosen.resize, size)
    if given.images:
        images, facts = ImageFolder(given.images, given.file_list), provenance.folder(given.images, given.file_list)
    else:
        images = SyntheticImages(given.built_in, size, split="validation")
        facts = provenance.drawn(f"SyntheticImages validation {size}", given.built_in)
    with processes(given.device) as device:
        tokenizer = tokenizers.load(given.tokenizer, given.checkpoint, weights=chosen.weights, device=device)
        model = provenance.model(tokenizer, given.tokenizer, given.checkpoint, chosen.weights)
        loading = results.Loading(given.limit, given.batch_size, given.num_workers)
        dataset = TransformedDataset(images, transform)
        run = results.run(tokenizer, dataset, chosen, device, facts, model, size, loading, given.check)
        if rank() == 0:
            print(report.write(given.output, run, given.method, given.train_data))


if __name__ == "__main__":
    main()
