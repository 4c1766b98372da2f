#!/usr/bin/env python
"""Images to shards of tokens, and back: resumable, on one GPU or many. (A tokenize.py would hide Python's own.)

python scripts/tokenize_images.py --checkpoint last.ckpt --images data/imagenet/train --image-size 256 --output tokens
torchrun --nproc_per_node 8 scripts/tokenize_images.py ...    # the same bytes from eight GPUs
python scripts/tokenize_images.py --checkpoint last.ckpt --tokens tokens --output outputs/pictures
"""

import argparse
from pathlib import Path

from open_magvit2 import load_tokenizer
from open_magvit2.common.devices import processes
from open_magvit2.common.distributed import rank
from open_magvit2.common.errors import short_errors
from open_magvit2.data.dataset import Source, TransformedDataset, source_paths
from open_magvit2.data.sources.by_class_path import load_source
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.data.transforms import ResizeCenterCrop, TenCrop
from open_magvit2.tokens.detokenizing import detokenize
from open_magvit2.tokens.writing import make_index, tokenize


def make_source(args: argparse.Namespace) -> Source:
    if args.source:
        return load_source(args.source, args.source_args)
    return ImageFolder(args.images, args.file_list, args.exclude)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, what = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", help="folder of images, or of class folders, to make tokens of")
    what.add_argument("--source", metavar="CLASS", help="class path of another source of images, or a YAML file")
    what.add_argument("--tokens", type=Path, metavar="FOLDER", help="of tokens to make images of")
    add("--checkpoint", required=True, type=Path)
    add("--weights", choices=["ema", "raw"], default="ema")
    add("--output", required=True, type=Path, help="folder; a run that was interrupted goes on there")
    add("--image-size", type=int, nargs="+", help="side, or height and width: resize, crop the centre; for --images")
    add("--allow-modules", nargs="*", default=(), help="Python modules whose classes the checkpoint may name")
    add("--source-args", nargs="*", default=[], metavar="NAME=VALUE", help="for the constructor of --source")
    add("--ten-crops", action="store_true", help="ten views an image: corners and centre, and those mirrored")
    add("--file-list", help="text file of paths below --images")
    add("--exclude", help="text file of paths to leave out, as scripts/check_dataset.py writes it")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is faster and changes some tokens")
    add("--shard-size", type=int, default=10_000, help="images in a file of tokens")
    add("--batch-size", type=int, default=32)
    add("--num-workers", type=int, default=4, help="of each GPU: processes that read images, threads that write them")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    args = parser.parse_args()
    if not args.tokens and len(args.image_size or ()) not in (1, 2):
        parser.error("images need --image-size SIDE or --image-size HEIGHT WIDTH")
    with short_errors(), processes(args.device) as device:
        tokenizer = load_tokenizer(args.checkpoint, args.weights, device, args.allow_modules)
        if args.tokens:
            shards = TokenShards(args.tokens)
            shards.check_made_by(args.checkpoint, args.weights)
            how = args.batch_size, args.precision, args.num_workers
            done = detokenize(tokenizer, shards, args.output, device, *how)
        else:
            size = args.image_size if len(args.image_size) == 2 else 2 * args.image_size
            transform, how = (TenCrop if args.ten_crops else ResizeCenterCrop)(size), (args.weights, args.precision)
            images = make_source(args)
            paths, loading = source_paths(images), (args.batch_size, args.num_workers)
            shape = (args.shard_size, transform.views)
            index = make_index(tokenizer, paths, size, args.checkpoint, *how, *shape)
            dataset = TransformedDataset(images, transform)
            done = tokenize(tokenizer, dataset, paths, index, args.output, device, *loading)
        if rank() == 0:
            print(f"{args.output}: {done} images written now")


if __name__ == "__main__":
    main()
