"""The generator of a file as labels, seeds and a function to pixels, for an evaluation that writes no images."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from open_magvit2.generators import command_line
from open_magvit2.generators.decoding import generate_images, image_seed, image_size
from open_magvit2.generators.pretrained import load_generator
from open_magvit2.generators.writing import Plan
from open_magvit2.protocols import Tokenizer


class Making(NamedTuple):
    """What makes images: the same that scripts/sample.py would write."""

    make: Callable[[Tensor, Sequence[int]], Tensor]  # labels int64 [B], a seed each -> uint8 [B, 3, H, W]
    labels: Tensor  # int64 [N], in shuffled order
    seeds: list[int]
    made_by: dict[str, Any]  # plain values that decide the pixels


class Maker:
    """A generator and its tokenizer, once loaded, for any number of settings.

    Args:
        args: flags of scripts/sample.py by their names: generator, tokenizer, weights, precision, compile, grid,
            head_width, classes, class_names, num_images, seed, batch_size, allow_modules.
        load_tokenizer: (file, weights, device, allowed modules) -> tokenizer.
        device: to compute on.

    Raises:
        ValueError: for a tokenizer or classes that do not fit, or a number of images that the classes do not divide.
    """

    def __init__(
        self, args: argparse.Namespace, load_tokenizer: Callable[..., Tokenizer], device: torch.device
    ) -> None:
        published = {"grid": args.grid, "head_width": args.head_width}
        generator = load_generator(args.generator, None, device, **published, allowed_modules=args.allow_modules)
        self.num_params = sum(parameter.numel() for parameter in generator.parameters())
        source = command_line.tokenizer_file(args, generator)
        self.tokenizer = load_tokenizer(*source, device, args.allow_modules)
        image_size(generator, self.tokenizer)  # refuses what does not fit
        self.plan = Plan(args.num_images, tuple(command_line.classes(args, generator)), args.seed)
        self.made_by = command_line.made_by(args, generator, source)
        self.generator = command_line.prepared(args, generator)
        self.device = device

    def making(self, options: dict[str, Any]) -> Making:
        """What makes images with sampling settings, given by name.

        Raises:
            ValueError: for options that the generator does not have.
        """
        settings = self.generator.make_settings(**options)

        def make(labels: Tensor, seeds: Sequence[int]) -> Tensor:
            return generate_images(self.generator, self.tokenizer, labels, seeds, settings, self.device)

        sampling = {"kind": type(settings).__name__, **asdict(settings)}
        seeds = [image_seed(self.plan.seed, number) for number in range(self.plan.num_images)]
        made_by = {"sampling": sampling, "seed": self.plan.seed, **self.made_by}
        return Making(make, self.plan.labels(), seeds, made_by)
