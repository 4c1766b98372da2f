#!/usr/bin/env python
"""Decode every image of a folder before a long run: what is broken, what is odd, and a list of what to leave out.

python scripts/check_dataset.py /data/imagenet/train --image-size 256 --write-list broken.txt
bash run_B_256.sh --data.init_args.train.init_args.exclude broken.txt

Exit code 0: all images are whole. 1: some are broken; they are printed, and listed in the file if one is named.
2: the folder or an option is wrong.
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", help="of class folders with images, or of images")
    add("--file-list", help="check these files alone: paths below the folder, one a line")
    add("--exclude", help="do not check these: a list that was written before")
    add("--image-size", type=int, default=1, help="training size: smaller images are counted")
    add("--duplicates", action="store_true", help="count files with the content of another one")
    add("--num-workers", type=int, default=len(os.sched_getaffinity(0)), help="processes; default: one a core")
    add("--time-limit", type=float, default=60.0, help="seconds a file may take before it counts as broken")
    add("--max-pixels", type=int, help="an image of more, width times height, is broken; default: 179 million")
    add("--write-list", type=Path, metavar="FILE", help="write the broken images here, for `exclude` in the config")
    args = parser.parse_args()
    from open_magvit2.common.errors import short_errors  # only now: --help and mistakes need not wait for torch
    from open_magvit2.common.files import check_writable
    from open_magvit2.data.checking import check_folder
    from open_magvit2.data.image_files import write_list
    from open_magvit2.data.sources.image_folder import ImageFolder

    limit = {} if args.max_pixels is None else {"max_pixels": args.max_pixels}
    with short_errors(2):
        if args.write_list:
            check_writable(args.write_list.parent)
        images = ImageFolder(args.folder, args.file_list, args.exclude, **limit)
        report = check_folder(images, args.image_size, args.duplicates, args.num_workers, args.time_limit)
        try:
            print(report.text(), flush=True)
        finally:  # also where nobody reads to the end: `| head`
            if args.write_list:
                write_list(args.write_list, report.broken)
    if report.broken:
        print(f"{len(report.broken):,} broken images" + (f" listed in {args.write_list}" if args.write_list else ""))
    sys.exit(1 if report.broken else 0)


if __name__ == "__main__":
    main()
