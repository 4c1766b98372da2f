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
    add("--write-list", metavar="FILE", help="write the broken images here, one a line, for `exclude` in the config")
    args = parser.parse_args()
    from open_magvit2.data.checking import check_folder  # only now: --help and mistakes need not wait for torch
    from open_magvit2.data.sources.image_folder import ImageFolder

    try:
        images = ImageFolder(args.folder, args.file_list, args.exclude)
        report = check_folder(images, args.image_size, args.duplicates, args.num_workers, args.time_limit)
        if args.write_list:
            report.write_exclude_list(args.write_list)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    sys.stdout.reconfigure(errors="backslashreplace")  # names need not be UTF-8
    print(report.text())
    if report.broken:
        print(f"{len(report.broken):,} broken images" + (f" listed in {args.write_list}" if args.write_list else ""))
    sys.exit(1 if report.broken else 0)


if __name__ == "__main__":
    main()
