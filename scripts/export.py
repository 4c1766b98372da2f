#!/usr/bin/env python
"""A checkpoint for other programs: two graphs, tokenize and detokenize (ONNX or torch.export), or a published file.

python scripts/export.py --checkpoint imagenet_256_B.ckpt --output outputs/exported
python scripts/export.py --checkpoint imagenet_256_B.ckpt --output outputs/exported --form torch
python scripts/export.py --checkpoint last.ckpt --output outputs/exported --form published    # for the reference's code
"""

import argparse
import sys
from pathlib import Path

from open_magvit2 import load_tokenizer
from open_magvit2.common.errors import short_errors
from open_magvit2.image_tokenizer.export import SUFFIX, export, save_published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder; takes tokenize.* and detokenize.*, or published.ckpt"
    )
    parser.add_argument(
        "--form", choices=[*sorted(SUFFIX), "published"], default="onnx", help="ONNX needs pip install '.[export]'"
    )
    parser.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="of the graphs; published.ckpt takes both"
    )
    parser.add_argument("--allow-modules", nargs="*", default=(), help="packages whose classes the file may name")
    args = parser.parse_args()
    if args.form == "published":
        path = args.output / "published.ckpt"
        has_averages = save_published(args.checkpoint, path, args.allow_modules)
        print(f"{path}: raw weights and {'moving averages' if has_averages else 'no moving averages'}")
        return
    tokenizer = load_tokenizer(args.checkpoint, args.weights, "cpu", args.allow_modules)
    result = export(tokenizer, args.output, args.form)
    print(f"{result.tokenize}: {result.num_indices - result.num_different} of {result.num_indices} indices are equal")
    print(f"{result.detokenize}: largest difference {result.largest_difference:.1e} in [-1, 1]")


if __name__ == "__main__":
    with short_errors(2):
        sys.exit(main())
