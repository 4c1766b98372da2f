"""The flags of scripts/sample.py, and what they mean for a generator."""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from open_magvit2.common import checkpoints
from open_magvit2.common.errors import short_errors
from open_magvit2.common.files import check_writable
from open_magvit2.generators.class_names import class_names, find_class
from open_magvit2.generators.compiled import CompiledSampler
from open_magvit2.generators.decoding import image_seed
from open_magvit2.protocols import Generator

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_OPTIONS = ("guidance", "temperature", "top_k", "top_p", "schedule", "power", "num_steps", "order")


def parse(description: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; a mistake ends the program with code 2.

    Args:
        description: of the script, for --help.
        arguments: by default those of the process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--generator", required=True, type=Path, help="checkpoint of a generator")
    add("--tokenizer", type=Path, help="checkpoint; default: the one of the generator's training, or inside its file")
    add("--weights", choices=["ema", "raw"], help="of the tokenizer; default: those the generator was trained with")
    modules = "Python packages outside this one from which the checkpoints may name classes"
    add("--allow-modules", nargs="*", default=[], metavar="MODULE", help=modules)
    add("--output", required=True, type=Path, help="folder; a run that was interrupted goes on there")
    add("--classes", nargs="+", metavar="CLASS", help="names or numbers; default with --num-images: all")
    add("--class-names", metavar="PATH", help="folder of class folders, or a list; default: ImageNet's, or numbers")
    add("--per-class", type=int, help="images of each class of a picture (default: 4)")
    add("--num-images", type=int, metavar="N", help="write N images, PNG and npz, instead of a picture")
    add("--edit", type=Path, metavar="PHOTO", help="make an area of a photo anew; needs a masked generator")
    add("--mask", type=Path, help="of --edit: a picture, white where the photo is made anew")
    add("--box", type=int, nargs=4, metavar=("TOP", "LEFT", "BOTTOM", "RIGHT"), help="of --edit, in the image's pixels")
    add("--outside", action="store_true", help="keep the box and make the rest: outpainting")
    add("--keep-pixels", action="store_true", help="of --edit: the photo's own pixels where tokens are kept")
    add("--seed", type=int, default=0, help="from which every image gets its own")
    add("--guidance", type=float, nargs="+", help="scale, or one a sub-token; autoregressive: 1 is none, masked: 0")
    add("--temperature", type=float, nargs="+", help="of the logits, or one a sub-token; masked: of the confidence")
    add("--top-k", type=int, nargs="+")
    add("--top-p", type=float, nargs="+")
    add("--schedule", help="of guidance: constant, linear, cosine, power_cosine; masked: arccos, cosine")
    add("--power", type=float, help="of the schedule power_cosine; masked: of guidance, which grows with the step")
    add("--num-steps", type=int, help="of a masked generator: an image; of a bit-wise one: a token")
    add("--order", help="of a bit-wise generator: random, confidence; which bits of a token are drawn first")
    add("--greedy", action="store_true", help="the most probable value instead of a draw")
    add("--precision", choices=list(DTYPES), default="fp32", help="of the generator's weights")
    add("--compile", action="store_true", help="compile the one-token step; on a GPU a CUDA graph")
    add("--grid", type=int, nargs="+", help="of tokens, for published files (default: 16 16)")
    add("--head-width", type=int, help="of attention, for published files (default: 64)")
    add("--batch-size", type=int, default=50)
    add("--num-workers", type=int, help="of --num-images: threads of each process that write PNG files (default: 4)")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    args = parser.parse_args(arguments)
    if args.num_images is None and not args.classes:
        parser.error("give --classes for a picture, or --num-images")
    if args.edit and args.num_images is not None:
        parser.error("--edit makes pictures of --classes: not with --num-images")
    if args.edit and (args.mask is None) == (args.box is None):
        parser.error("--edit needs either --mask or --box")
    if not args.edit and (args.mask or args.box or args.outside or args.keep_pixels):
        parser.error("--mask, --box, --outside and --keep-pixels are for --edit")
    if args.num_images is not None and args.per_class is not None:
        parser.error("--per-class is for pictures: --num-images are shared equally by the classes")
    if args.num_images is None and args.num_workers is not None:
        parser.error("--num-workers is for --num-images")
    args.per_class = 4 if args.per_class is None else args.per_class
    args.num_workers = 4 if args.num_workers is None else args.num_workers
    with short_errors(2):
        check_writable(args.output)
    return args


def tokenizer_file(args: argparse.Namespace, generator: nn.Module) -> tuple[Path, str]:
    """The file and the weights of the tokenizer. One named by the user that is not the training's is logged.

    Raises:
        FileNotFoundError: if the file of the generator's tokenizer is no longer where it was in its training.
        ValueError: if it has another content than then, or the training saw tokens alone and knows no file.
    """
    made_by: dict[str, Any] = getattr(generator, "made_by", None) or {}
    if args.tokenizer is not None:
        if made_by.get("sha256") and made_by["sha256"] != (found := checkpoints.digest(args.tokenizer)):
            logger.warning(
                "%s was trained with the tokenizer %s of SHA-256 %s, its images are decoded by %s of %s",
                *(args.generator, made_by.get("path") or "of its tokens", made_by["sha256"], args.tokenizer, found),
            )
        return args.tokenizer, args.weights or made_by.get("weights") or "ema"
    if made_by and not made_by.get("path"):
        raise ValueError(
            f"{args.generator} was trained on tokens of the {made_by.get('weights')} weights of the tokenizer with "
            f"SHA-256 {made_by.get('sha256')}: name its file by --tokenizer"
        )
    if not made_by:
        return args.generator, args.weights or "raw"  # published: raw weights inside the same file
    path = Path(made_by["path"])
    try:
        found = checkpoints.digest(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}, the tokenizer of SHA-256 {made_by.get('sha256')} that {args.generator} was trained with, is not "
            f"here: name its file by --tokenizer ({error})"
        ) from error
    if made_by.get("sha256") not in (None, found):
        raise ValueError(f"{path} is not the tokenizer that {args.generator} was trained with: name it by --tokenizer")
    return path, args.weights or made_by.get("weights") or "ema"


def settings(args: argparse.Namespace, generator: Generator) -> Any:
    """The sampling settings, of the options that were named.

    Raises:
        ValueError: for options that the generator does not have, or values out of range.
    """
    options = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    return generator.make_settings(**options, **({"greedy": True} if args.greedy else {}))


def classes(args: argparse.Namespace, generator: Generator) -> dict[int, str]:
    """The chosen classes, by number, with their names; all if none was chosen.

    Raises:
        ValueError: for a class that does not exist, or one named twice.
    """
    names = class_names(generator.num_classes, args.class_names)
    chosen = range(len(names)) if args.classes is None else [find_class(text, names) for text in args.classes]
    if len(set(chosen)) < len(chosen):
        numbers = " ".join(map(str, chosen))
        raise ValueError(f"--classes {' '.join(args.classes)} are the classes {numbers}: give every class once")
    return {number: names[number] for number in chosen}


def prepared(args: argparse.Namespace, generator: nn.Module) -> Generator:
    """The generator in the precision that was asked for, compiled if that was.

    Raises:
        ValueError: for compiling a generator that has no one-token step.
    """
    generator = generator.to(DTYPES[args.precision])
    if not args.compile:
        return generator
    if not hasattr(generator, "make_caches"):
        raise ValueError(f"--compile is for autoregressive generators, got {type(generator).__name__}")
    return CompiledSampler(generator, args.batch_size)


def made_by(args: argparse.Namespace, generator: nn.Module, tokenizer: tuple[Path, str]) -> dict[str, Any]:
    """What decides the pixels besides plan and settings, for `writing.write_samples`.

    Grid and heads are among it: a published file does not hold them.
    """
    return {
        "generator_sha256": checkpoints.digest(args.generator),
        "grid": list(generator.grid),
        "num_heads": getattr(generator, "num_heads", None),  # a generator of a user may have none
        "tokenizer_sha256": checkpoints.digest(tokenizer[0]),
        "tokenizer_weights": tokenizer[1],
        "precision": args.precision,
        "pixels": "rounded",
    }


def picture_facts(args: argparse.Namespace, settings: Any, classes: dict[int, str]) -> dict[str, Any]:
    """What decides the pixels of pictures besides `made_by`, for `pictures.write_rows`."""
    edit = {name: getattr(args, name) for name in ("edit", "mask", "box", "outside", "keep_pixels")}
    return {
        "seed": args.seed,
        "image_seeds": [image_seed(args.seed, number) for number in range(args.per_class)],  # those of every class
        "classes": classes,
        "sampling": {"kind": type(settings).__name__, **asdict(settings)},
        **({name: str(v) if isinstance(v, Path) else v for name, v in edit.items()} if args.edit else {}),
    }
