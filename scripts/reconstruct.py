#!/usr/bin/env python
"""Images in, reconstructions out: PNG files with the original left and its reconstruction right.

python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/pictures photo.jpg folder/of/photos
python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/pictures photos --baselines jpeg,bicubic
python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/pictures panorama.png --tile 512 --measure-seams
python scripts/reconstruct.py --compare a.ckpt b.ckpt --output outputs/sheet.png photos --image-size 256
python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/demo.png --built-in 16 --size 48
"""

import sys

from open_magvit2.common.errors import short_errors
from open_magvit2.data.decoding import read_rgb
from open_magvit2.data.image_files import find_images
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.evaluation import baselines, command_line, contact_sheet, pictures, tiling, tokenizers
from open_magvit2.evaluation.originals import make_transform


def main() -> int:
    args, num_left_out = command_line.parse_reconstruct(__doc__), 0
    files, methods = find_images(args.images), baselines.parse(args.baselines)
    if args.compare:
        print(contact_sheet.write(args, files))
        return 0
    places = pictures.places(files, args.output, args.reconstructions)
    tokenizer = tokenizers.load(args.tokenizer, args.checkpoint, args.device, **args.loading)
    tiles = (args.tile, args.overlap)
    if args.tile is not None:
        tiling.check_tiles(tokenizer, *tiles)
    transform = make_transform("bilinear" if args.image_size else "none", args.image_size)
    if args.built_in:
        drawn = SyntheticImages(args.built_in, args.size, split="validation")
        originals = [transform(drawn[index].image, None) for index in range(len(drawn))]
        results = [tiling.reconstruct(tokenizer, image, *tiles, args.device).pixels for image in originals]
        pictures.save_png(args.output, pictures.originals_above_reconstructions(originals, results, enlarge=2))
        return 0
    for (path, _), (place, *alone) in zip(files, places, strict=True):
        try:
            original = transform(read_rgb(path, args.max_pixels), None)
            result = tiling.reconstruct(tokenizer, original, *tiles, args.device)
        except ValueError as error:
            name_first = "" if str(path) in str(error) else f"{path}: "
            print(f"{name_first}{error}", file=sys.stderr)
            num_left_out += 1
            continue
        if args.measure_seams:
            measured = tiling.measure_seams(tokenizer, original, *tiles, args.device)
            print(f"{path}: {measured or 'fits one tile, there are no seams'}")
        picture = pictures.comparison(original, result, tokenizer.codebook_size, methods)
        pictures.save_png(place, picture)
        for other in alone:
            pictures.save_png(other, result.pixels)
    print(f"pictures written to {args.output}: {len(files) - num_left_out}, files left out: {num_left_out}")
    return 1 if num_left_out else 0


if __name__ == "__main__":
    with short_errors(2):
        sys.exit(main())
