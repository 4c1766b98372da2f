#!/usr/bin/env python
"""Images to shards of tokens, and back: resumable, on one GPU or many. (A tokenize.py would hide Python's own.)

python scripts/tokenize_images.py --checkpoint last.ckpt --images data/imagenet/train --image-size 256 --output tokens
torchrun --nproc_per_node 8 scripts/tokenize_images.py ...    # the same bytes from eight GPUs
python scripts/tokenize_images.py --checkpoint last.ckpt --tokens tokens --output outputs/pictures
"""

import argparse

from open_magvit2.common.devices import processes
from open_magvit2.common.distributed import rank
from open_magvit2.common.errors import short_errors
from open_magvit2.data.dataset import Source, TransformedDataset, source_paths
from open_magvit2.data.sources.by_class_path import load_source
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.token_shards import TokenShards
from open_magvit2.data.streaming import with_length
from open_magvit2.data.transforms import ResizeCenterCrop, TenCrop
from open_magvit2.evaluation import tokenizers
from open_magvit2.tokens import command_line
from open_magvit2.tokens.detokenizing import detokenize
from open_magvit2.tokens.writing import make_index, tokenize


def make_source(args: argparse.Namespace) -> Source:
    if args.source:
        return with_length(load_source(args.source, args.source_args))
    return ImageFolder(args.images, args.file_list, args.exclude, args.max_pixels)


def main() -> None:
    args = command_line.parse(__doc__)
    with short_errors(), processes(args.device) as device:
        tokenizer = tokenizers.load(args.tokenizer, args.checkpoint, device, **args.loading)
        if args.tokens:
            shards = TokenShards(args.tokens)
            shards.check_made_by(args.checkpoint, args.weights)
            how = args.batch_size, args.precision, args.num_workers
            done = detokenize(tokenizer, shards, args.output, device, *how)
        else:
            size = args.image_size if len(args.image_size) == 2 else 2 * args.image_size
            transform, how = (TenCrop if args.ten_crops else ResizeCenterCrop)(size), (args.weights, args.precision)
            images = make_source(args)
            dataset = TransformedDataset(images, transform)
            paths, loading = source_paths(images), (args.batch_size, args.num_workers)
            shape = (args.shard_size, dataset.views)
            index = make_index(tokenizer, paths, size, args.checkpoint, *how, *shape)
            done = tokenize(tokenizer, dataset, paths, index, args.output, device, *loading)
        if rank() == 0:
            print(f"{args.output}: {done} images written now")


if __name__ == "__main__":
    main()
