"""A tokenizer by the path of its file: what a configuration writes where an argument is typed `Tokenizer`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common import checkpoints
from open_magvit2.evaluation.tokenizers._recognition import load_tokenizer
from open_magvit2.image_tokenizer.weight_checks import NoAveragesError
from open_magvit2.protocols import CheckpointFacts, Modality, SizeRule, Weights


class PretrainedTokenizer:
    """A frozen tokenizer, loaded by `load_tokenizer`; it knows the path and the SHA-256 of its file.

    It is no `nn.Module`: a training that holds it neither trains, nor averages, nor saves its weights.

    Args:
        path, weights, allowed_modules: of `load_tokenizer`.

    Raises:
        FileNotFoundError, ValueError: see `load_tokenizer`.
    """

    def __init__(self, path: str, weights: Weights = "ema", allowed_modules: Sequence[str] = ()) -> None:
        self.model = load_tokenizer(path, weights, allowed_modules=allowed_modules)
        self.codebook_size: int = self.model.codebook_size
        self.modality: Modality = self.model.modality
        self.size_rule: SizeRule = self.model.size_rule
        facts = {**self.model.checkpoint_facts, "path": str(path), "sha256": checkpoints.digest(path)}
        self.checkpoint_facts = CheckpointFacts(**facts)

    def to(self, device: str | torch.device) -> "PretrainedTokenizer":
        """Move the weights to a device, in place."""
        self.model.to(device)
        return self

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """See `protocols.Tokenizer.token_shape`."""
        return self.model.token_shape(size)

    def tokenize(self, image: Tensor) -> Tensor:
        """See `protocols.Tokenizer.tokenize`."""
        return self.model.tokenize(image)

    def detokenize(self, indices: Tensor) -> Tensor:
        """See `protocols.Tokenizer.detokenize`."""
        return self.model.detokenize(indices)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `protocols.Tokenizer.reconstruct`."""
        return self.model.reconstruct(image)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretrainedTokenizer":
        return self  # frozen: the averaged copy of a training shares it


def which_weights(tokenizer: torch.nn.Module, path: str | Path, allowed_modules: Sequence[str] = ()) -> list[Weights]:
    """Which of a tokenizer file's weights a tokenizer has, bit by bit: its moving averages, the raw ones, or neither.

    A published generator file holds the tokenizer that it was trained with, and does not say which of the weights of
    the tokenizer's own file these are.

    Args:
        tokenizer: e.g. `load_tokenizer("AR_256_B.ckpt", "raw")`.
        path: of the tokenizer's file, e.g. imagenet_256_L.ckpt.
        allowed_modules: see `load_tokenizer`.

    Returns:
        ["raw"], ["ema"], both where the file's are equal, or [].

    Raises:
        FileNotFoundError, ValueError: if the file holds no tokenizer.
    """
    mine = {name: value.cpu() for name, value in tokenizer.state_dict().items()}
    raw = load_tokenizer(path, "raw", allowed_modules=allowed_modules)
    candidates: dict[Weights, torch.nn.Module] = {"raw": raw}
    with contextlib.suppress(NoAveragesError):
        candidates["ema"] = load_tokenizer(path, "ema", allowed_modules=allowed_modules)
    return [name for name, model in candidates.items() if _equal(mine, model.state_dict())]


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
