"""The flags of scripts/tokenize_images.py."""

import argparse
from pathlib import Path

from open_magvit2.data.decoding import MAX_PIXELS


def parse(description: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; a mistake ends the program with code 2.

    Args:
        description: of the script, for --help.
        arguments: by default those of the process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, what = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", help="folder of images, or of class folders, to make tokens of")
    what.add_argument("--source", metavar="CLASS", help="class path of another source of images, or a YAML file")
    what.add_argument("--tokens", type=Path, metavar="FOLDER", help="of tokens to make images of")
    add("--checkpoint", required=True, type=Path)
    add("--tokenizer", metavar="FAMILY", help="of the checkpoint, or a module path; default: read off the file")
    add("--weights", choices=["ema", "raw"], default="ema")
    add("--output", required=True, type=Path, help="folder; a run that was interrupted goes on there")
    add("--image-size", type=int, nargs="+", help="side, or height and width: resize, crop the centre; for --images")
    add("--allow-modules", nargs="*", default=(), help="Python modules whose classes the checkpoint may name")
    add("--source-args", nargs="*", default=[], metavar="NAME=VALUE", help="for the constructor of --source")
    add("--ten-crops", action="store_true", help="ten views an image: corners and centre, and those mirrored")
    add("--file-list", help="text file of paths below --images")
    add("--exclude", help="text file of paths to leave out, as scripts/check_dataset.py writes it")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="an image of more is not read (default: %(default)s)")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is faster and changes some tokens")
    add("--shard-size", type=int, default=10_000, help="images in a file of tokens")
    add("--batch-size", type=int, default=32)
    add("--num-workers", type=int, default=4, help="of each GPU: processes that read images, threads that write them")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    args = parser.parse_args(arguments)
    if not args.tokens and len(args.image_size or ()) not in (1, 2):
        parser.error("images need --image-size SIDE or --image-size HEIGHT WIDTH")
    args.loading = {"weights": args.weights, "allowed_modules": args.allow_modules}
    return args
