"""scripts/evaluate.py for generated images: its flags, checked before any work begins, and what they ask for."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from open_magvit2.common import hub
from open_magvit2.common.arguments import integer
from open_magvit2.common.devices import choose_device
from open_magvit2.common.distributed import rank
from open_magvit2.common.errors import short_errors
from open_magvit2.common.files import check_writable
from open_magvit2.evaluation import protocol, sweep
from open_magvit2.evaluation.generated import GeneratedImages
from open_magvit2.evaluation.generation import GenerationSetting, evaluate_images, samples_model
from open_magvit2.evaluation.report import write
from open_magvit2.evaluation.samples import open_images

# flags that would do nothing: the images of --samples are made already
_OF_MAKING = ("sweep", "sampling", "num_images", "seed", "classes", "class_names", "tokenizer", "weights", "precision")
_OF_MAKING += ("compile", "grid", "head_width", "allow_modules")


def is_meant(arguments: Sequence[str]) -> bool:
    """Whether a command line is about generated images."""
    return any(word.partition("=")[0] in ("--samples", "--generator", "--sweep") for word in arguments)


def make_parser() -> argparse.ArgumentParser:
    """The flags, for reading and for --help."""
    parser = argparse.ArgumentParser(
        usage="scripts/evaluate.py --samples PATH | --generator FILE [...]", add_help=False
    )
    add = parser.add_argument
    add("--samples", type=Path, help="generated images: an npz file with arr_0, or a folder")
    add("--generator", type=Path, help="checkpoint; without --samples its images are made meanwhile")
    add("--reference", type=Path, help="VIRTUAL_imagenet256_labeled.npz, another npz, or a folder of real images")
    add(
        "--sweep", nargs="+", metavar="NAME=VALUES", help="e.g. guidance=1.5,1.75,2 temperature=1,1.1: all combinations"
    )
    add("--sampling", nargs="*", default=[], metavar="NAME=VALUE", help="e.g. guidance=1.9/2 (one a sub-token) top_k=0")
    add("--num-images", type=int, default=50_000, help="of --generator, the same number of every class")
    add("--seed", type=int, default=0, help="of --generator; a number gives scripts/sample.py's images")
    add("--classes", nargs="+", help="of --generator: names or numbers; default: all")
    add("--class-names", type=Path, help="of --generator: text file, a name a line")
    add("--tokenizer", type=Path, help="file of the tokenizer; default: the one that the generator was trained with")
    add("--weights", choices=["ema", "raw"], help="of the tokenizer")
    modules = "Python packages outside this one from which the checkpoints may name classes"
    add("--allow-modules", nargs="*", default=[], metavar="MODULE", help=modules)
    add("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="of the generator's weights")
    add("--compile", action="store_true", help="compile the generator's one-token step")
    add("--grid", type=int, nargs="+", help="of tokens, for published files (default: 16 16)")
    add("--head-width", type=int, help="of attention, for published files (default: 64)")
    add("--protocol", default="adm", help="a name in configs/evaluation, or a YAML file (default: adm)")
    add("--metrics", help="comma-separated names or class paths; default: the protocol's")
    add("--allow-few-images", action="store_true", help="fewer than the features of FID and sFID, 2,049")
    add("--batch-size", type=int, default=50)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--method", default="", help="name in the Markdown row and the page; default: that of the file")
    add("--output", type=Path, help="folder for results.json, row.md, report.html; or sweep.json, sweep.html, points/")
    return parser


def parse(description: str, protocols: Path, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; a mistake ends the program with code 2.

    Besides the flags, the result has `device`, which has been tried, `chosen`, the protocol, `options`, those of
    `--sampling` by name, and `points` of the sweep.

    Args:
        description: of the script, for --help.
        protocols: folder of the named protocols.
        arguments: by default those of the process.
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=kind, parents=[make_parser()])
    args = parser.parse_args(arguments)
    if args.reference is None or args.output is None:
        parser.error("generated images need --reference and --output")
    if args.samples is None and args.generator is None:
        parser.error("--sweep needs --generator")
    given = [name for name in _OF_MAKING if getattr(args, name) != parser.get_default(name)]
    if args.samples and given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        parser.error(f"{names}: for --generator alone, the images of --samples are made already")
    with short_errors(2):
        integer(1, num_images=args.num_images, batch_size=args.batch_size)
        args.device = choose_device(args.device)
        check_writable(args.output)
        args.options = options(args.sampling)
        args.points = sweep.points(args.sweep) if args.sweep else []
        if args.points and (both := [name for name in args.options if name in args.points[0]]):
            raise ValueError(f"{', '.join(both)} in --sweep and in --sampling: leave it out of one of them")
        args.chosen = protocol.load(args.protocol, protocols).configured([], args.metrics)
        if args.generator:
            hub.local_path(args.generator)
        for path in filter(None, (args.samples, args.reference)):
            if not path.exists():
                raise FileNotFoundError(f"{path} is not there: give an existing file or folder")
    return args


def options(words: Sequence[str]) -> dict[str, Any]:
    """Sampling settings by name, of "name=value" each, a value as YAML has it or a number a sub-token: 1.9/2.

    Raises:
        ValueError: for other words.
    """
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            values = [yaml.safe_load(part) for part in text.split("/")]
        except yaml.YAMLError:
            values = [None]
        if not name or not equals or name in found or None in values:
            raise ValueError(f"--sampling: expected NAME=VALUE, every name once, got {word!r}: e.g. guidance=1.9")
        found[name] = values[0] if len(values) == 1 else values
    return found


def evaluate(args: argparse.Namespace, device: torch.device, make: Callable[[], Any] | None) -> str:
    """What the flags ask for, with its files written; a collective call under DDP.

    Args:
        args: of `parse`.
        device: to compute on.
        make: loads the generator as a `generators.on_the_fly.Maker`; None with --samples.

    Returns:
        a summary for the terminal; empty on other ranks.

    Raises:
        ValueError: for images, a reference or a generator that is not what it should be.
    """
    setting = GenerationSetting(args.reference, device, args.batch_size, allow_few_images=args.allow_few_images)
    maker = make() if make else None

    def made(point: dict[str, Any]) -> GeneratedImages:
        return GeneratedImages(*maker.making({**args.options, **point}))

    images = made({}) if maker else open_images(args.samples)
    model = samples_model(images, args.method, args.generator, maker.num_params if maker else None)
    if args.points:
        sweep.run(args.points, made, model, args.chosen, setting, args.output)
        return f"sweep.json, sweep.html and points/ in {args.output}" if rank() == 0 else ""
    run = evaluate_images(images, model, args.chosen, setting)
    return write.generation_files(args.output, run) if rank() == 0 else ""
