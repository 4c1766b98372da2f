#!/usr/bin/env python
"""Images in, reconstructions out: PNG files with the original left and its reconstruction right.

python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/pictures photo.jpg folder/of/photos
python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/pictures photos --baselines jpeg,bicubic
python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/pictures panorama.png --tile 512 --measure-seams
python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/demo.png --built-in 16 --size 48
"""

import argparse
import sys
from pathlib import Path

import torch

from open_magvit2 import load_tokenizer
from open_magvit2.data.decoding import read_rgb
from open_magvit2.data.image_files import find_images
from open_magvit2.data.synthetic import SyntheticImages
from open_magvit2.evaluation import baselines, pictures, tiling
from open_magvit2.evaluation.originals import make_transform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("images", nargs="*", help="image files and folders of images, of any size")
    add("--checkpoint", required=True)
    add("--weights", choices=["averaged", "raw"], default="averaged")
    add("--output", required=True, type=Path, help="folder; a PNG file with --built-in")
    add("--reconstructions", type=Path, metavar="FOLDER", help="write the reconstructions alone here as well")
    add("--image-size", type=int, help="resize the shorter side, crop the centre, as the paper does; default: as it is")
    add("--baselines", default="", help="jpeg,bicubic: what they make of the image in at most as many bits")
    add("--tile", type=int, help="side of the tiles for images too large for memory; default: each image whole")
    add("--overlap", type=int, help="of tiles; default: a quarter of the tile")
    add("--measure-seams", action="store_true", help="say how tiles differ from the whole image, which must fit memory")
    add("--built-in", type=int, metavar="N", help="N held-out built-in images instead, as one picture")
    add("--size", type=int, default=48, help="of the built-in images")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if bool(given.images) == bool(given.built_in):
        parser.error("give image files or folders, or --built-in N")
    if given.tile is None and (given.overlap is not None or given.measure_seams):
        parser.error("--overlap and --measure-seams need --tile")
    if given.built_in and (given.baselines or given.reconstructions or given.measure_seams):
        parser.error("--baselines, --reconstructions and --measure-seams are for image files, not for --built-in")
    try:
        files, methods = find_images(given.images), baselines.parse(given.baselines)
        tokenizer = load_tokenizer(given.checkpoint, given.weights, given.device)
        if given.tile is not None:
            tiling.check_tiles(tokenizer.downsampling, given.tile, given.overlap)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    transform = make_transform("bilinear" if given.image_size else "none", given.image_size)
    if given.built_in:
        drawn = SyntheticImages(given.built_in, given.size, split="validation")
        originals = [transform(drawn[index].image, None) for index in range(len(drawn))]
        results = [tiling.reconstruct(tokenizer, image, given.tile, given.overlap, given.device) for image in originals]
        grid = pictures.originals_above_reconstructions(originals, [result.pixels for result in results], enlarge=2)
        pictures.save_png(given.output, grid)
        return
    num_unreadable = 0
    for path, name in files:
        try:
            original = transform(read_rgb(path), None)
        except ValueError as error:
            print(error, file=sys.stderr)
            num_unreadable += 1
            continue
        result = tiling.reconstruct(tokenizer, original, given.tile, given.overlap, given.device)
        if given.measure_seams:
            measured = tiling.measure_seams(tokenizer, original, given.tile, given.overlap, given.device)
            print(f"{path}: {measured or 'fits one tile, there are no seams'}")
        picture = pictures.comparison(original, result, tokenizer.codebook_size, methods)
        pictures.save_png(given.output / f"{name}.png", picture)
        if given.reconstructions:
            pictures.save_png(given.reconstructions / f"{name}.png", result.pixels)
    print(f"pictures written to {given.output}: {len(files) - num_unreadable}, unreadable files: {num_unreadable}")
    sys.exit(1 if num_unreadable else 0)


if __name__ == "__main__":
    main()
