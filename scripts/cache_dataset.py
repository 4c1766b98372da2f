#!/usr/bin/env python
"""Resize a dataset once: a cache of uint8 pixels for training and validation at one image size (docs/performance.md).

python scripts/cache_dataset.py --images data/imagenet/train --image-size 256 --output cache/train_256
python scripts/cache_dataset.py --verify cache/train_256

Killed or stopped, the same command continues where it was.
"""

import argparse
import os
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", type=Path, metavar="FOLDER", help="class folders, or a flat folder")
    add("--file-list", type=Path, help="of the images to take, one path a line")
    add("--exclude", type=Path, help="list of images to leave out, as scripts/check_dataset.py writes it")
    add("--image-size", type=int, nargs="+", help="side, or height and width, that the images will just cover")
    add("--max-pixels", type=int, help="an image of more, width times height, is broken; default: 179 million")
    add("--output", type=Path, help="folder of the cache")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one a core)")
    add("--images-per-file", type=int, default=1024, help="a killed run loses as many for each process (default: 1024)")
    add("--skip-broken", action="store_true", help="leave out images that cannot be decoded, instead of failing")
    add("--dry-run", action="store_true", help="only say how large the cache will be")
    add("--verify", type=Path, metavar="CACHE", help="check a cache's checksums instead of writing one")
    args = parser.parse_args()
    if args.verify is None and None in (args.images, args.image_size, args.output):
        parser.error("give --images, --image-size and --output, or --verify")
    from open_magvit2.common.errors import short_errors  # --help and mistakes need no torch
    from open_magvit2.common.progress_bar import progress_bar
    from open_magvit2.data.sources import cache_building, cached, image_folder

    with short_errors():
        if args.verify:
            cache = cached.CachedImages(args.verify)
            with progress_bar(total=len(cache), desc="checksums", unit="image") as bar:
                cached.verify(cache, args.workers, bar.update)
            print(f"{args.verify}: {len(cache)} images of {cache.image_size} pixels, all checksums right")
            return
        size = args.image_size if len(args.image_size) == 2 else 2 * args.image_size
        limit = {} if args.max_pixels is None else {"max_pixels": args.max_pixels}
        source = image_folder.ImageFolder(args.images, args.file_list, args.exclude, **limit)
        with progress_bar(total=len(source), desc="sizes", unit="image") as bar:
            plan = cache_building.make_plan(source, size, args.images_per_file, args.workers, bar.update)
        amount = f"{plan.num_bytes / 1e9:.3f} GB in {plan.num_files} files"
        print(f"{args.output}: {len(source)} images, {amount}", flush=True)
        if not args.dry_run:
            with progress_bar(total=len(source), desc="pixels", unit="image") as bar:
                done = cache_building.build(source, args.output, plan, args.workers, args.skip_broken, bar.update)
            print(f"{args.output}: finished, {done} images")


if __name__ == "__main__":
    main()
