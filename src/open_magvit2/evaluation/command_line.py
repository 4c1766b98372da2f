"""The flags of scripts/evaluate.py and scripts/reconstruct.py, checked before any work begins."""

import argparse
from pathlib import Path

from open_magvit2.common.arguments import integer
from open_magvit2.common.devices import choose_device
from open_magvit2.common.errors import short_errors
from open_magvit2.common.files import check_writable
from open_magvit2.data.decoding import MAX_PIXELS
from open_magvit2.evaluation import generation_command_line, protocol, table_rows, tokenizers
from open_magvit2.evaluation import image_size as sizes

# flags that would do nothing: a table's rows say these themselves, pictures made elsewhere have no tokenizer
_UNUSED = {
    "table": ("tokenizer", "method", "train_data"),
    "originals": (
        *("tokenizer", "images", "built_in", "source", "image_size", "file_list", "skip_broken", "checkpoints"),
        *("precision", "check", "batch_size", "allow_modules", "allow_cross_resolution"),
    ),
    "checkpoint": ("checkpoints",),
}
_FAMILIES = f"family of the file: {', '.join(tokenizers.available())}, or a module path; default: read off the file"


def parse_evaluate(description: str, protocols: Path, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags of scripts/evaluate.py; a mistake ends the program with code 2.

    Besides the flags, the result has `device`, which has been tried, `chosen`, the protocol of one checkpoint, and
    `kind` and `rows` of a table.

    Args:
        description: of the script, for --help.
        protocols: folder of the named protocols.
        arguments: by default those of the process.
    """
    kind, epilog = argparse.RawDescriptionHelpFormatter, generation_command_line.make_parser().format_help()
    epilog = f"for generated images:\n\n{epilog}".replace("%", "%%")
    parser = argparse.ArgumentParser(description=description, formatter_class=kind, epilog=epilog)
    add = parser.add_argument
    what, source = parser.add_mutually_exclusive_group(required=True), parser.add_mutually_exclusive_group()
    what.add_argument("--checkpoint", help="evaluate one tokenizer")
    what.add_argument("--originals", metavar="FOLDER", help="measure pictures made elsewhere: the folder of originals")
    add("--reconstructions", metavar="FOLDER", help="of --originals, under the same names, suffixes aside")
    what.add_argument("--table", metavar="YAML", help="compare several, e.g. configs/evaluation/table.yaml")
    add("--checkpoints", default="checkpoints", help="folder of the table's files (default: checkpoints)")
    add("--tokenizer", metavar="FAMILY", help=_FAMILIES)
    _add_allow_modules(parser)
    fetch = "fetch the table's missing files from the Hugging Face Hub into its cache; lists them with sizes first"
    add("--download", action="store_true", help=fetch)
    names = "a name in configs/evaluation, or a YAML file; default: paper; of a table: each row's own"
    add("--protocol", help=names)
    add("--common-protocol", metavar="PROTOCOL", help="measure a table under this as well, and show both side by side")
    add("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change the protocol, e.g. weights=raw tf32=true")
    add("--precision", metavar="{fp32,bf16}", help="of the tokenizer alone: bf16 is --set precision=bf16")
    add("--metrics", help="comma-separated names or class paths; default: the protocol's")
    source.add_argument("--images", help="folder of images, or of class folders")
    source.add_argument("--built-in", type=int, metavar="N", help="N held-out built-in images instead")
    source.add_argument("--source", metavar="CLASS", help="class path of a source of images, or a YAML file naming one")
    add("--source-args", nargs="*", default=[], metavar="NAME=VALUE", help="for the constructor of --source")
    add("--file-list", help="text file of paths below --images")
    skip = "leave out files that cannot be read, and list them; default: refuse. Decodes every file first, on"
    _add_max_pixels(parser)
    add("--skip-broken", action="store_true", help=f"{skip} --num-workers processes, with 0 on one a core")
    size = "side, or height and width; default: the training's; of a table: its rows of this size"
    add("--image-size", type=int, nargs="+", metavar="SIDE", help=size)
    add("--allow-cross-resolution", action="store_true", help="evaluate at another size than the training's")
    add("--limit", type=int, metavar="N", help="N images evenly spaced; figures are named after it")
    add("--fingerprint", choices=["full", "size-only"], default="full", help="of the images: contents, or sizes alone")
    add("--batch-size", type=int, default=16)
    add("--num-workers", type=int, default=0)
    _add_device(parser)
    add("--check", choices=["stop", "record", "off"], help="of the first images; default: stop, built-in: record")
    add("--method", default="", help="name in the Markdown row and the page; default: family and file")
    add("--train-data", default="-", help="for the Markdown row")
    add("--output", required=True, help="folder for results.json, row.md, report.html; or table.json, .md, .html")
    args = parser.parse_args(arguments)
    if args.checkpoint and not args.images and not args.source and args.built_in is None:
        parser.error("one of the arguments --images --source --built-in is required with --checkpoint")
    for what, unused in _UNUSED.items():
        given = [name for name in unused if getattr(args, what) and getattr(args, name) != parser.get_default(name)]
        if given:
            parser.error(f"{', '.join('--' + name.replace('_', '-') for name in given)}: not with --{what}")
    if (args.download or args.common_protocol) and not args.table:
        parser.error("--download and --common-protocol need --table")
    if bool(args.originals) != bool(args.reconstructions):
        parser.error("--originals and --reconstructions need each other")
    changes = args.set + ([] if args.precision is None else [f"precision={args.precision}"])
    if not args.images and (args.file_list or args.skip_broken):
        parser.error("--file-list and --skip-broken need --images")
    args.check = args.check or ("stop" if args.images or args.source else "record")
    with short_errors(2):
        _check_numbers(args, "limit", "built_in", "batch_size", "max_pixels")
        integer(0, num_workers=args.num_workers)
        args.device = choose_device(args.device)
        check_writable(args.output)
        args.image_size = None if args.image_size is None else sizes.from_plain(args.image_size)
        if args.table:
            given = (args.table, protocols, changes, args.metrics, args.image_size)
            args.kind, args.rows = table_rows.load(*given, args.protocol)
            args.common = table_rows.load(*given, args.common_protocol)[1] if args.common_protocol else None
        else:
            if args.tokenizer is not None:
                tokenizers.family_module(args.tokenizer)
            name = args.protocol or ("native" if args.originals else "paper")
            args.chosen = protocol.load(name, protocols).configured(changes, args.metrics)
    return args


def parse_reconstruct(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags of scripts/reconstruct.py; a mistake ends the program with code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("images", nargs="*", help="image files and folders of images, of any size")
    _add_max_pixels(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint")
    sheet = "one picture of several tokenizers: rows images, columns tokenizers, each cell with its PSNR"
    which.add_argument("--compare", nargs="+", metavar="CHECKPOINT", help=sheet)
    add("--tokenizer", metavar="FAMILY", help=_FAMILIES)
    add("--weights", choices=["ema", "raw"], default="ema")
    _add_allow_modules(parser)
    add("--output", required=True, type=Path, help="folder; a PNG file with --built-in and --compare")
    add("--reconstructions", type=Path, metavar="FOLDER", help="write the reconstructions alone here as well")
    add("--image-size", type=int, help="resize the shorter side, crop the centre, as the paper does; default: as it is")
    add("--baselines", default="", help="jpeg,bicubic: each in at most as many bits as the tokens")
    add("--tile", type=int, help="side of the tiles for images too large for memory; default: each image whole")
    add("--overlap", type=int, help="of tiles; default: a quarter of the tile")
    add(
        "--measure-seams",
        action="store_true",
        help="print how tiles differ from the whole image, which must fit memory",
    )
    add("--built-in", type=int, metavar="N", help="N held-out built-in images instead, as one picture")
    add("--size", type=int, default=48, help="of the built-in images")
    _add_device(parser)
    args = parser.parse_args(arguments)
    if bool(args.images) == bool(args.built_in):
        parser.error("give image files or folders, or --built-in N")
    if args.compare and (args.built_in or args.baselines or args.reconstructions or args.measure_seams):
        parser.error("--compare is for image files, without --baselines, --reconstructions and --measure-seams")
    args.loading = {"weights": args.weights, "allowed_modules": args.allow_modules}
    if args.tile is None and (args.overlap is not None or args.measure_seams):
        parser.error("--overlap and --measure-seams need --tile")
    if args.built_in and (args.baselines or args.reconstructions or args.measure_seams):
        parser.error("--baselines, --reconstructions and --measure-seams are for image files, not for --built-in")
    if args.reconstructions is not None and args.reconstructions.resolve() == args.output.resolve():
        parser.error("--output and --reconstructions write files of the same names: give two folders")
    writes_one = bool(args.built_in or args.compare)
    if writes_one and args.output.is_dir():
        flag = "--compare" if args.compare else "--built-in"
        parser.error(f"with {flag}, --output is a PNG file: {args.output} is a folder")
    with short_errors(2):
        _check_numbers(args, "image_size", "built_in", "size", "max_pixels")
        if args.tokenizer is not None:
            tokenizers.family_module(args.tokenizer)
        args.device = choose_device(args.device)
        for folder in (args.output.parent if writes_one else args.output, args.reconstructions):
            if folder is not None:
                check_writable(folder)
    return args


def _check_numbers(args: argparse.Namespace, *names: str) -> None:
    """Refuse values below 1 of those flags that are given."""
    integer(1, **{name: value for name in names if (value := getattr(args, name)) is not None})


def _add_allow_modules(parser: argparse.ArgumentParser) -> None:
    text = "Python packages outside this one from which a checkpoint may name classes"
    parser.add_argument("--allow-modules", nargs="*", default=[], metavar="MODULE", help=text)


def _add_max_pixels(parser: argparse.ArgumentParser) -> None:
    text = "an image of more, width times height, is not read (default: %(default)s)"
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help=text)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
