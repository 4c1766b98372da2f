#!/usr/bin/env python
"""Evaluate a tokenizer checkpoint on built-in images or an image folder: results.json with the figures.

python scripts/evaluate.py --checkpoint last.ckpt --images data/imagenet/val --image-size 128 --output outputs/evaluation
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from open_magvit2 import load_tokenizer
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.image_folder import ImageFolder
from open_magvit2.data.synthetic import SyntheticImages
from open_magvit2.data.transforms import ValidationTransform
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.reconstruction import evaluate
from open_magvit2.evaluation.report import write_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--weights", choices=["averaged", "raw"], default="averaged")
    parser.add_argument("--images", help="folder of images, or of class folders")
    parser.add_argument("--built-in", type=int, metavar="N", help="N held-out built-in images instead")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--metrics", default="psnr,ssim,codebook_usage")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", required=True, type=Path, help="folder for results.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if bool(arguments.images) == bool(arguments.built_in):
        parser.error("give either --images FOLDER or --built-in N")
    tokenizer = load_tokenizer(arguments.checkpoint, arguments.weights, arguments.device)
    size = arguments.image_size
    images = ImageFolder(arguments.images) if arguments.images else SyntheticImages(
        arguments.built_in, size, split="validation"
    )
    loader = DataLoader(TransformedDataset(images, ValidationTransform(size)), arguments.batch_size)
    metrics, absent = create(arguments.metrics.split(","), MetricContext(tokenizer.codebook_size, len(images)))
    result = evaluate(tokenizer, loader, metrics, arguments.device)
    content = {"kind": "tokenizer-reconstruction", "metrics": result.metrics, "absent": absent}
    content |= {"num_images": result.num_images, "tokens_per_image": result.tokens_per_image, "image_size": size}
    content |= {"checkpoint": arguments.checkpoint, "weights_used": arguments.weights}
    write_results(arguments.output / "results.json", content)
    for name in ("psnr_image", "ssim_image", "codebook_utilization"):
        if name in result.metrics:
            print(f"{name:22} {result.metrics[name]:.4f}")


if __name__ == "__main__":
    main()
