#!/usr/bin/env python
"""Images in, reconstructions out: PNG files with the original left and its reconstruction right.

python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/pictures photo.jpg folder/of/photos
python scripts/reconstruct.py --checkpoint last.ckpt --output outputs/demo.png --built-in 16 --size 48
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from open_magvit2 import load_tokenizer
from open_magvit2.data.image_folder import ImageFolder
from open_magvit2.data.synthetic import SyntheticImages
from open_magvit2.evaluation.pictures import (
    originals_above_reconstructions,
    reconstruct_pixels,
    save_png,
    side_by_side,
)


def to_pixels(image: Image.Image) -> torch.Tensor:
    """RGB image -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help="image files, or folders of images")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--weights", choices=["averaged", "raw"], default="averaged")
    parser.add_argument("--output", required=True, type=Path, help="folder; a PNG file with --built-in")
    parser.add_argument("--built-in", type=int, metavar="N", help="N held-out built-in images instead, as one picture")
    parser.add_argument("--size", type=int, default=48, help="of the built-in images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if bool(arguments.images) == bool(arguments.built_in):
        parser.error("give image files or folders, or --built-in N")
    tokenizer = load_tokenizer(arguments.checkpoint, arguments.weights, arguments.device)
    if arguments.built_in:
        dataset = SyntheticImages(arguments.built_in, arguments.size, split="validation")
        originals = [to_pixels(dataset[index].image) for index in range(len(dataset))]
        results = [reconstruct_pixels(tokenizer, pixels, arguments.device) for pixels in originals]
        save_png(arguments.output, originals_above_reconstructions(originals, results, enlarge=2))
        return
    for path in arguments.images:
        dataset = ImageFolder(path) if path.is_dir() else [(Image.open(path).convert("RGB"), -1, path)]
        for index in range(len(dataset)):
            image, _, source = dataset[index]
            pixels = to_pixels(image)
            picture = side_by_side(pixels, reconstruct_pixels(tokenizer, pixels, arguments.device))
            save_png(arguments.output / f"{Path(source).stem}.png", picture)


if __name__ == "__main__":
    main()
