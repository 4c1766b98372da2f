#!/usr/bin/env python
"""Write the images of a folder into WebDataset shards, or the index of shards that others made (docs/data.md).

python scripts/make_shards.py --images data/imagenet/train --output shards/train
python scripts/make_shards.py --count 'https://host/{00000..00999}.tar' --output index.json
python scripts/make_shards.py --verify shards/train

Killed or stopped, the first command continues where it was.
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, what = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", metavar="FOLDER", help="class folders, or a flat folder")
    what.add_argument("--count", nargs="+", metavar="URL", help="shards to count, once, for their index")
    what.add_argument("--verify", type=Path, metavar="FOLDER", help="check the shards' checksums")
    add("--output", type=Path, help="folder of the shards; with --count the index file")
    add("--file-list", help="of the images to take, one path a line")
    add("--exclude", help="list of images to leave out, as scripts/check_dataset.py writes it")
    add("--images-per-shard", type=int, default=1000, help="(default: 1000)")
    add("--seed", type=int, default=0, help="of the order of the images (default: 0)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one a core)")
    add("--skip-broken", action="store_true", help="leave out images that cannot be decoded, instead of failing")
    args = parser.parse_args()
    if args.output is None and not args.verify:
        parser.error("give --output")
    from open_magvit2.common.errors import short_errors  # --help and mistakes need no torch
    from open_magvit2.common.progress_bar import progress_bar
    from open_magvit2.data.sources import image_folder, shard_building, shard_files

    with short_errors():
        if args.verify:
            damaged = shard_files.damaged_files(args.verify)
            print("\n".join(f"damaged: {args.verify / name}" for name in damaged) or f"{args.verify}: all are right")
            sys.exit(1 if damaged else 0)
        if args.count:
            urls = shard_files.expand(args.count)
            with progress_bar(total=len(urls), desc="count", unit="shard") as bar:
                done = shard_files.count_all(urls, args.output, bar.update)
        else:
            images = image_folder.ImageFolder(args.images, args.file_list, args.exclude)
            how = (args.images_per_shard, args.seed, args.skip_broken, args.workers)
            with progress_bar(total=len(images), desc="shards", unit="image") as bar:
                done = shard_building.build(images, args.output, *how, bar.update)
        print(f"{args.output}: {done} images")


if __name__ == "__main__":
    main()
