"""The flags of scripts/evaluate.py and scripts/reconstruct.py, and what is tried before their work begins."""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from open_magvit2.evaluation import protocol, table_rows, tokenizers
from open_magvit2.evaluation.loading import choose_device
from open_magvit2.evaluation.sanity import SanityError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def short_errors(code: int = 1) -> Iterator[None]:
    """What a user can mend ends the program with its message alone, not with a stack trace.

    Args:
        code: to exit with; 2 where no work has begun.
    """
    try:
        yield
    except (ValueError, OSError, SanityError) as error:
        logger.debug("where it was refused", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(code)


def check_folder(folder: str | Path) -> None:
    """Try, before the work, that files can be written to a folder, or that it can be made; nothing is left behind.

    Raises:
        OSError: naming the folder, and what stands in its way.
    """
    nearest = Path(folder).absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".try", dir=nearest) as made:
            Path(made, "file").touch()
    except OSError as error:
        raise OSError(
            f"cannot write to {folder}: {error.strerror} at {nearest}; choose a folder that can be written"
        ) from error


def parse(description: str, protocols: Path, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags of scripts/evaluate.py; what cannot be meant, or cannot work, ends the program with code 2.

    Besides the flags: `device` is tried, `chosen` the protocol of one checkpoint and `rows` those of a table.

    Args:
        description: of the script, for --help.
        protocols: folder of the named protocols.
        arguments: by default those of the process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    what, source = parser.add_mutually_exclusive_group(required=True), parser.add_mutually_exclusive_group()
    what.add_argument("--checkpoint", help="evaluate one tokenizer")
    what.add_argument("--table", metavar="YAML", help="compare several, e.g. configs/evaluation/table.yaml")
    add("--checkpoints", default="checkpoints", help="folder of the table's files (default: checkpoints)")
    add("--tokenizer", default="open_magvit2", choices=tokenizers.available(), help="family of the checkpoint")
    add("--protocol", default="paper", help="a name in configs/evaluation, or a YAML file (default: paper)")
    add("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change the protocol, e.g. weights=raw tf32=true")
    add("--precision", metavar="{fp32,bf16}", help="of the tokenizer alone: bf16 is --set precision=bf16")
    add("--metrics", help="comma-separated; default: the protocol's")
    source.add_argument("--images", help="folder of images, or of class folders")
    source.add_argument("--built-in", type=int, metavar="N", help="N held-out built-in images instead")
    add("--file-list", help="text file of paths below --images")
    add(
        "--skip-broken",
        action="store_true",
        help="leave out files that cannot be read, and say so; default: refuse. Decodes every file first, on "
        "--num-workers processes, with 0 on one a core",
    )
    add(
        "--image-size",
        type=int,
        help="side of the images; default: the training's; of a table: its rows of this size",
    )
    add("--allow-cross-resolution", action="store_true", help="evaluate at another size than the training's")
    add("--limit", type=int, metavar="N", help="N images evenly spaced; figures are named after it")
    add("--fingerprint", choices=["full", "size-only"], default="full", help="of the images: contents, or sizes alone")
    add("--batch-size", type=int, default=16)
    add("--num-workers", type=int, default=0)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--check", choices=["stop", "record", "off"], help="of the first images; default: stop, built-in: record")
    add("--method", default="Open-MAGVIT2", help="name in the Markdown row and the page")
    add("--train-data", default="-", help="for the Markdown row")
    add("--output", required=True, help="folder for results.json, row.md, report.html; or table.json, .md, .html")
    given = parser.parse_args(arguments)
    if given.checkpoint and not given.images and given.built_in is None:
        parser.error("one of the arguments --images --built-in is required with --checkpoint")
    changes = given.set + ([] if given.precision is None else [f"precision={given.precision}"])
    given.check = given.check or ("record" if given.images is None else "stop")
    with short_errors(2):
        given.device = choose_device(given.device)
        check_folder(given.output)
        if given.table:
            given.rows = table_rows.load(given.table, protocols, changes, given.metrics, given.image_size)
        else:
            given.chosen = protocol.load(given.protocol, protocols).configured(changes, given.metrics)
    return given


def parse_reconstruct(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags of scripts/reconstruct.py; what cannot be meant, or cannot work, ends the program with code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("images", nargs="*", help="image files and folders of images, of any size")
    add("--checkpoint", required=True)
    add("--weights", choices=["ema", "raw"], default="ema")
    add("--output", required=True, type=Path, help="folder; a PNG file with --built-in")
    add("--reconstructions", type=Path, metavar="FOLDER", help="write the reconstructions alone here as well")
    add("--image-size", type=int, help="resize the shorter side, crop the centre, as the paper does; default: as it is")
    add("--baselines", default="", help="jpeg,bicubic: what they make of the image in at most as many bits")
    add("--tile", type=int, help="side of the tiles for images too large for memory; default: each image whole")
    add("--overlap", type=int, help="of tiles; default: a quarter of the tile")
    add("--measure-seams", action="store_true", help="say how tiles differ from the whole image, which must fit memory")
    add("--built-in", type=int, metavar="N", help="N held-out built-in images instead, as one picture")
    add("--size", type=int, default=48, help="of the built-in images")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    given = parser.parse_args(arguments)
    if bool(given.images) == bool(given.built_in):
        parser.error("give image files or folders, or --built-in N")
    if given.tile is None and (given.overlap is not None or given.measure_seams):
        parser.error("--overlap and --measure-seams need --tile")
    if given.built_in and (given.baselines or given.reconstructions or given.measure_seams):
        parser.error("--baselines, --reconstructions and --measure-seams are for image files, not for --built-in")
    if given.built_in and given.output.is_dir():
        parser.error(f"with --built-in, --output is a PNG file: {given.output} is a folder")
    with short_errors(2):
        given.device = choose_device(given.device)
        folders = (given.output.parent if given.built_in else given.output, given.reconstructions)
        for folder in filter(None, folders):
            check_folder(folder)
    return given
