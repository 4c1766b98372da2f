"""From the tensors of a file to the family of its tokenizer, and to the tokenizer itself.

A family of published files is a module of this package with

    LABEL                           what the family is called
    IGNORED                         pattern of names in its files that are no part of the tokenizer: losses, bookkeeping
    fits(state)                     whether a state dict looks like the family's, by a few names
    read_architecture(state)        the description of the tokenizer (`common.construction`), off the tensors' shapes
    published_name(name, state)     the name in the file of a tensor of the tokenizer
    HAS_AVERAGES                    optional, true where its files hold `model_ema.*`, which the figures are of
    unified(state)                  optional, the state dict of another container under the names of the usual one
"""

import logging
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common import construction, state_dicts
from open_magvit2.image_tokenizer import pretrained
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.published import averaged_name
from open_magvit2.protocols import CheckpointFacts, Weights

logger = logging.getLogger(__name__)

_AVERAGES = ("ema", "ema_state_dict")  # containers of moving averages beside the raw weights: LlamaGen, BSQ-ViT
_SHOWN = 3  # differences of each kind


def families() -> dict[str, ModuleType]:
    """The families of published files in this package by name; those with a `load` of their own are not among them."""
    package = __name__.rpartition(".")[0]
    names = [module.name for module in pkgutil.iter_modules(import_module(package).__path__)]
    modules = {name: import_module(f"{package}.{name}") for name in names if not name.startswith("_")}
    return {name: module for name, module in modules.items() if hasattr(module, "read_architecture")}


def recognized(state: Mapping[str, Tensor]) -> ModuleType | None:
    """The family of a state dict, or None."""
    return next((module for module in families().values() if module.fits(_unified(module, state))), None)


def load(
    family: ModuleType,
    content: Mapping[str, Any],
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
) -> ImageTokenizer:
    """The tokenizer in a file's content.

    Args:
        family: a module of this package.
        content: of the file, as `checkpoints.read` gives it.
        path: of the file, for messages.
        weights: "ema" gives the moving averages where the family's files have them, and the only weights elsewhere;
            `checkpoint_facts["weights"]` says which.
        device: where to put it.

    Raises:
        ValueError: for a part that is missing; EMA weights asked for and absent though the family has them; missing or
            extra tensors, or wrong shapes, all listed.
    """
    facts = CheckpointFacts(weights="raw", global_step=content.get("global_step"), warnings=[])
    averages = next((name for name in _AVERAGES if isinstance(content.get(name), Mapping)), None)
    if weights == "ema" and averages is not None:
        content = {"state_dict": content[averages]}
        facts["weights"] = "ema"
    state = _unified(family, state_of(content, path))
    tokenizer = construction.build(family.read_architecture(state))
    names = {name: family.published_name(name, state) for name in tokenizer.state_dict()}
    if getattr(family, "HAS_AVERAGES", False) and weights == "ema":
        if not any(averaged_name(name) in state for name in names.values()):
            raise ValueError(f"{path} holds no EMA weights (model_ema.*); load it with weights='raw'")
        facts["weights"] = "ema"
    pretrained.load_named(
        tokenizer,
        state,
        names,
        family.IGNORED,
        "ema" if averages is None and facts["weights"] == "ema" else "raw",
        path,
        facts,
    )
    facts["checkpoint_format"] = family.LABEL
    number = sum(parameter.numel() for parameter in tokenizer.parameters())
    logger.info("%s: %s, %s codes, %.1f M parameters", path, family.LABEL, f"{tokenizer.codebook_size:,}", number / 1e6)
    return pretrained.finished(tokenizer, facts, path, device)


def state_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file's content, under the module's own names."""
    return state_dicts.without_wrappers(state_dicts.find_state_dict(content, str(path)))[0]


def nearest(state: Mapping[str, Tensor]) -> str:
    """Which family a state dict that fits none is nearest to, and its first differences, as a sentence; or ""."""
    best: tuple[float, str] = (0.0, "")
    for family in families().values():
        try:
            own = _unified(family, state)
            with torch.device("meta"):
                tokenizer = construction.build(family.read_architecture(own))
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError):
            continue  # too little of this family to build a model from
        expected = {family.published_name(name, own) for name in tokenizer.state_dict()}
        found = {name for name in own if not family.IGNORED.match(name)}
        share = len(expected & found) / len(expected | found)
        if share > best[0]:
            missing, extra = sorted(expected - found), sorted(found - expected)
            text = f"nearest is {family.LABEL}, of which {len(missing)} names are missing {missing[:_SHOWN]}"
            best = (share, f"{text} and {len(extra)} unexpected {extra[:_SHOWN]}")
    return best[1]


def _unified(family: ModuleType, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return family.unified(state) if hasattr(family, "unified") else state
