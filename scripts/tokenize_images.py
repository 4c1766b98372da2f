#!/usr/bin/env python
"""Images to shards of tokens, and back: resumable, on one GPU or many. (A tokenize.py would hide Python's own.)

python scripts/tokenize_images.py --checkpoint last.ckpt --images data/imagenet/train --image-size 256 --output tokens
torchrun --nproc_per_node 8 scripts/tokenize_images.py ...    # the same bytes from eight GPUs
python scripts/tokenize_images.py --checkpoint last.ckpt --tokens tokens --output outputs/pictures
"""

import argparse
from pathlib import Path

from open_magvit2 import load_tokenizer
from open_magvit2.common.distributed import rank
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.image_folder import ImageFolder
from open_magvit2.data.transforms import ValidationTransform
from open_magvit2.evaluation.command_line import short_errors
from open_magvit2.evaluation.loading import processes
from open_magvit2.tokens.reading import TokenShards, detokenize
from open_magvit2.tokens.writing import make_index, tokenize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, what = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", help="folder of images, or of class folders, to make tokens of")
    what.add_argument("--tokens", type=Path, metavar="FOLDER", help="of tokens to make images of")
    add("--checkpoint", required=True, type=Path)
    add("--weights", choices=["ema", "raw"], default="ema")
    add("--output", required=True, type=Path, help="folder; a run that was interrupted goes on there")
    add("--image-size", type=int, help="resize the shorter side, crop the centre; needed with --images")
    add("--file-list", help="text file of paths below --images")
    add("--exclude", help="text file of paths to leave out, as scripts/check_dataset.py writes it")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is faster and changes some tokens")
    add("--shard-size", type=int, default=10_000, help="images in a file of tokens")
    add("--batch-size", type=int, default=32)
    add("--num-workers", type=int, default=4, help="of each GPU: processes that read images, threads that write them")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    given = parser.parse_args()
    if given.images and not given.image_size:
        parser.error("--images needs --image-size")
    with short_errors(), processes(given.device) as device:
        tokenizer = load_tokenizer(given.checkpoint, given.weights, device)
        if given.tokens:
            shards = TokenShards(given.tokens)
            shards.check_made_by(given.checkpoint, given.weights)
            how = given.batch_size, given.precision, given.num_workers
            done = detokenize(tokenizer, shards, given.output, device, *how)
        else:
            images, how = ImageFolder(given.images, given.file_list, given.exclude), (given.weights, given.precision)
            paths = images.relative_paths()
            index = make_index(tokenizer, paths, given.image_size, given.checkpoint, *how, given.shard_size)
            dataset, loading = TransformedDataset(images, ValidationTransform(given.image_size)), given.num_workers
            done = tokenize(tokenizer, dataset, paths, index, given.output, device, given.batch_size, loading)
        if rank() == 0:
            print(f"{given.output}: {done} images now, those of an earlier run were kept")


if __name__ == "__main__":
    main()
