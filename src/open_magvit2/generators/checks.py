"""Data, tokenizer and generator fit each other, or one error names both sides."""

import math
from typing import Any

from torch import Tensor, nn

from open_magvit2.protocols import Tokenizer

_WHO = ("sha256", "weights")  # what tells tokenizers apart


def check_source(
    generator: nn.Module, tokenizer: Tokenizer | None, data: Any, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What made the tokens that a training sees.

    Args:
        generator: with `grid` and `factorization`.
        tokenizer: of images, or of pictures; None for a source of tokens without pictures.
        data: the data module: one of tokens has `shards`, one of images `image_size`.
        before: what this function returned in the run that is continued.

    Returns:
        image_size (H, W), and path, sha256, weights and precision of the tokenizer as far as they are known.

    Raises:
        ValueError: naming the two that do not fit: tokens and generator, tokenizer and generator, tokens and the
            tokenizer of pictures, the tokenizer and that of the run that is continued; or class folders of validation
            whose numbers mean other classes in training.
    """
    shards = getattr(data, "shards", None)
    size = getattr(data, "image_size", None)
    size = (size, size) if isinstance(size, int) else None if size is None else tuple(size)
    facts = dict(getattr(tokenizer, "checkpoint_facts", {})) if tokenizer is not None else {}
    made_by = {name: facts.get(name) for name in ("path", *_WHO)} | {"precision": "fp32", "image_size": size}
    if tokenizer is not None:
        shape = None if size is None else tokenizer.token_shape(size)
        _check_codes(generator, f"the tokenizer{_of(facts)}", tokenizer.codebook_size, shape)
    elif shards is None:
        raise ValueError("the data are images and there is no tokenizer: set model.init_args.tokenizer, or give tokens")
    for source in shards or ():
        index = source.index
        _check_codes(generator, f"the tokens in {source.folder}", index.codebook_size, index.token_shape)
        of_tokens = {"sha256": index.checkpoint_sha256, "weights": index.weights}
        _check_same(f"the tokens in {source.folder}", of_tokens, "the tokenizer of the configuration", made_by)
        made_by |= of_tokens
    if shards:
        made_by["precision"] = shards[0].index.precision  # of the training tokens; validation's may have another
    _check_same("the run that is continued", before or {}, "this one", made_by)
    check_class_numbers(getattr(data, "train", None), getattr(data, "validation", None))
    return made_by


def check_class_numbers(train: Any, validation: Any) -> None:
    """Refuse class folders of validation that have another number in training, or the number of another folder there.

    Sources number their folders by themselves: five of ten folders would be classes 0 to 4. A source without names of
    classes, e.g. a file list, is taken as it is.
    """
    in_training, in_validation = _class_numbers(train), _class_numbers(validation)
    if not in_training or not in_validation:
        return
    names = {number: name for name, number in in_training.items()}
    wrong = {
        name: number
        for name, number in in_validation.items()
        if in_training.get(name, number) != number or names.get(number, name) != name
    }
    if wrong:
        name, number = next(iter(wrong.items()))
        there = f"class {in_training[name]}" if name in in_training else "no class"
        raise ValueError(
            f"{len(wrong)} of the {len(in_validation)} class folders of validation have other numbers than in "
            f"training, e.g. {name!r} is class {number} in validation and {there} in training: expected the same "
            "folders in both. Add the missing ones, or name the validation images in a file list with training's "
            "numbers (path, tab, number)"
        )


def _class_numbers(source: Any) -> dict[str, int]:
    """Name -> number of a source's classes; empty where it does not know them."""
    if numbers := getattr(source, "class_numbers", None):
        return dict(numbers)
    names = getattr(source, "classes", None)
    return {name: number for number, name in enumerate(names)} if isinstance(names, list | tuple) else {}


def check_classes(labels: Tensor, num_classes: int) -> None:
    """Refuse classes outside [0, num_classes), -1 of a source without classes among them. Labels are on the CPU."""
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"class {label} of the data is outside the generator's table: expected 0 to {num_classes - 1}; set "
                "model.init_args.generator.init_args.num_classes, or give data with classes"
            )


def _check_codes(generator: nn.Module, what: str, codebook_size: int, shape: tuple[int, ...] | None) -> None:
    expected, grid = generator.factorization.codebook_size, tuple(generator.grid)
    if codebook_size != expected:
        raise ValueError(
            f"{what} has a codebook of {codebook_size} codes, the generator one of {expected} (bits "
            f"{list(generator.bits)}): set model.init_args.generator.init_args.bits so that they add up to "
            f"{math.log2(codebook_size):g}, or take the other tokenizer"
        )
    if shape is not None and tuple(shape) != grid:
        raise ValueError(
            f"{what} gives {tuple(shape)} tokens an image, the generator has a grid of {grid}: change "
            "model.init_args.generator.init_args.grid or data.init_args.image_size"
        )


def _check_same(first: str, one: dict[str, Any], second: str, other: dict[str, Any]) -> None:
    """Two descriptions of a tokenizer agree where both know something."""
    pairs = [(name, one.get(name), other.get(name)) for name in _WHO]
    if any(mine is not None and theirs is not None and mine != theirs for _, mine, theirs in pairs):
        sides = ("SHA-256 {0[0][1]}, {0[1][1]} weights", "SHA-256 {0[0][2]}, {0[1][2]} weights")
        mine, theirs = (side.format(pairs) for side in sides)
        raise ValueError(f"{first}: made by another tokenizer ({mine}) than {second} ({theirs})")


def _of(facts: dict[str, Any]) -> str:
    return f" in {facts['path']}" if facts.get("path") else ""
