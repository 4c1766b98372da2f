"""The flags of scripts/evaluate.py, for one checkpoint and for a table of them."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator

from open_magvit2.evaluation import tokenizers
from open_magvit2.evaluation.sanity import SanityError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def short_errors() -> Iterator[None]:
    """What a user can mend ends the program with its message alone, not with a stack trace."""
    try:
        yield
    except (ValueError, OSError, SanityError) as error:
        logger.debug("where it was refused", exc_info=True)
        sys.exit(f"error: {error}")


def parse(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; a contradiction ends the program with the usage.

    Args:
        description: of the script, for --help.
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
    add("--metrics", help="comma-separated; default: the protocol's")
    source.add_argument("--images", help="folder of images, or of class folders")
    source.add_argument("--built-in", type=int, metavar="N", help="N held-out built-in images instead")
    add("--file-list", help="text file of paths below --images")
    add("--skip-broken", action="store_true", help="leave out files that cannot be read, and say so; default: refuse")
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
    given.check = given.check or ("record" if given.images is None else "stop")
    return given
