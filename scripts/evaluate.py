#!/usr/bin/env python
"""Evaluate an image tokenizer: results.json with every figure and its provenance, a Markdown row, an HTML page.

python scripts/evaluate.py --checkpoint imagenet_256_B.ckpt --images data/imagenet/val --image-size 256 --output outputs
torchrun --nproc_per_node 8 scripts/evaluate.py ...   # the same on eight GPUs
"""

import argparse
from pathlib import Path

from open_magvit2.common.distributed import rank
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.image_folder import ImageFolder
from open_magvit2.data.synthetic import SyntheticImages
from open_magvit2.evaluation import originals, protocol, provenance, report, results, tokenizers
from open_magvit2.evaluation.loading import processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, source = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    add("--checkpoint", required=True)
    add("--tokenizer", default="open_magvit2", choices=tokenizers.available(), help="family of the checkpoint")
    add("--protocol", default="paper", help="a name in configs/evaluation, or a YAML file (default: paper)")
    add("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change the protocol, e.g. weights=raw tf32=true")
    add("--metrics", help="comma-separated; default: the protocol's")
    source.add_argument("--images", help="folder of images, or of class folders")
    source.add_argument("--built-in", type=int, metavar="N", help="N held-out built-in images instead")
    add("--file-list", help="text file of paths below --images")
    add("--image-size", type=int, help="side of the images; required unless the protocol keeps their own")
    add("--limit", type=int, metavar="N", help="N images evenly spaced; figures are named after it")
    add("--batch-size", type=int, default=16)
    add("--num-workers", type=int, default=0)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--check", choices=["stop", "record", "off"], help="of the first images; default: stop, built-in: record")
    add("--method", default="Open-MAGVIT2", help="name in the Markdown row and the page")
    add("--train-data", default="-", help="for the Markdown row")
    add("--output", required=True, help="folder for results.json, row.md, report.html")
    given = parser.parse_args()
    check, size = given.check or ("stop" if given.images else "record"), given.image_size
    folder = Path(__file__).resolve().parents[1] / "configs" / "evaluation"
    chosen = protocol.load(given.protocol, folder).configured(given.set, given.metrics)
    if given.images:
        images, facts = ImageFolder(given.images, given.file_list), provenance.folder(given.images, given.file_list)
    else:
        images = SyntheticImages(given.built_in, size, split="validation")
        facts = provenance.drawn(f"SyntheticImages validation {size}", given.built_in)
    with processes(given.device) as device:
        tokenizer = tokenizers.load(given.tokenizer, given.checkpoint, weights=chosen.weights, device=device)
        model = provenance.model(tokenizer, given.tokenizer, given.checkpoint, chosen.weights)
        dataset = TransformedDataset(images, originals.make_transform(chosen.resize, size))
        loading = results.Loading(given.limit, given.batch_size, given.num_workers)
        run = results.run(tokenizer, dataset, chosen, device, facts, model, size, loading, check)
        if rank() == 0:
            print(report.write(given.output, run, given.method, given.train_data))


if __name__ == "__main__":
    main()
