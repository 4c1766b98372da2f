"""The flags of scripts/tokenize_images.py."""

import argparse
from pathlib import Path

from open_magvit2.data.decoding import MAX_PIXELS

# Which of --images, --source and --tokens an option is for, where it is not for all of them.
_FOR = {
    "image_size": ("images", "source"),
    "source_args": ("source",),
    "ten_crops": ("images", "source"),
    "file_list": ("images",),
    "exclude": ("images",),
    "max_pixels": ("images",),
    "shard_size": ("images", "source"),
}
_SHARD_SIZE = 10_000


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
    add("--image-size", type=int, nargs="+", help="side, or height and width: resize, crop the centre")
    add("--allow-modules", nargs="*", default=(), help="Python modules whose classes the checkpoint may name")
    add("--source-args", nargs="*", default=[], metavar="NAME=VALUE", help="for the constructor of --source")
    add("--ten-crops", action="store_true", help="ten views an image: corners and centre, and those mirrored")
    add("--file-list", help="text file of paths below --images")
    add("--exclude", help="text file of paths to leave out, as scripts/check_dataset.py writes it")
    add("--max-pixels", type=int, help=f"an image of more is not read (default: {MAX_PIXELS})")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is faster and changes some tokens")
    add("--shard-size", type=int, help=f"images in a file of tokens (default: {_SHARD_SIZE})")
    add("--batch-size", type=int, default=32)
    add("--num-workers", type=int, default=4, help="of each GPU: processes that read images, threads that write them")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    args = parser.parse_args(arguments)
    given = next(name for name in ("images", "source", "tokens") if getattr(args, name) is not None)
    for name, sources in _FOR.items():
        if given not in sources and getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is for {' and '.join(f'--{s}' for s in sources)}, got --{given}")
    args.max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    args.shard_size = _SHARD_SIZE if args.shard_size is None else args.shard_size
    if given != "tokens" and len(args.image_size or ()) not in (1, 2):
        parser.error("images need --image-size SIDE or --image-size HEIGHT WIDTH")
    args.loading = {"weights": args.weights, "allowed_modules": args.allow_modules}
    return args
