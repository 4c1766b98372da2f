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
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor

from open_magvit2.common import checkpoints, construction, hub, state_dicts
from open_magvit2.evaluation.tokenizers import diffusers_vae
from open_magvit2.image_tokenizer import pretrained, weight_checks
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.published import averaged_name
from open_magvit2.protocols import CheckpointFacts, Tokenizer, Weights
from open_magvit2.quantizers.lookup_free import BitOrder

logger = logging.getLogger(__name__)

_AVERAGES = ("ema", "ema_state_dict")  # containers of moving averages next to the raw weights: LlamaGen, BSQ-ViT
_SHOWN = 3  # differences of each kind
# What reading sizes off tensors of unexpected shapes, and building networks of such sizes, raises.
_UNREADABLE = (ValueError, RuntimeError, LookupError, TypeError, ArithmeticError)


def load_tokenizer(
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
    allowed_modules: Sequence[str] = (),
    bit_order: BitOrder | None = None,
) -> Tokenizer:
    """Load a tokenizer for inference from our checkpoint or a published file of any family of this package.

    Family and architecture are read off the file's tensors. Loading is strict, and no code from the file is executed.

    Args:
        path: `.ckpt` of ours, or a published file: imagenet_256_B.ckpt, vq_ds16_c2i.pt, vq-f8.zip, ...; a folder of
            `save_pretrained`, or of diffusers with a continuous autoencoder; or a name on the Hugging Face Hub
            (`common.hub`): "org/name", "org/name/file.ckpt", either with "@revision", or a short name of
            `open_magvit2.published()`. A path that exists wins.
        weights: "ema" (moving averages: validation and all published figures) or "raw". A family without averages gives
            its only weights either way; `checkpoint_facts["weights"]` says which were loaded.
        device: where to put the model.
        allowed_modules: names of Python modules outside this package from which a checkpoint of ours may name classes,
            e.g. ["my_project"] for a tokenizer that was trained with a quantizer of yours.
        bit_order: of the indices of a published Open-MAGVIT2 file; by default B files are read most significant bit
            first, L files least significant first, as their authors number them.

    Returns:
        the tokenizer in eval mode, its parameters without gradients.

    Raises:
        FileNotFoundError, ValueError: no file; a damaged, unsafe or unknown one, with the nearest family; a class that
            is not allowed; EMA weights asked for and absent; missing or extra tensors, or wrong shapes, all listed.

    Example:
        >>> tokenizer = load_tokenizer("imagenet_256_B.ckpt")  # doctest: +SKIP
        >>> indices = tokenizer.tokenize(image)  # [B, 3, 256, 256] in [-1, 1] -> [B, 16, 16]  # doctest: +SKIP
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be 'ema' or 'raw', got {weights!r}")
    if diffusers_vae.is_folder_of(local := hub.local_path(path)):
        return diffusers_vae.load(local, device)
    content = checkpoints.read(path)
    state = None
    if pretrained.TOKENIZER_KEY not in content:
        state = state_of(content, path)
        if (family := recognized(state)) is not None:
            return load(family, content, path, weights, device)
    try:
        return pretrained.from_content(content, path, weights, device, allowed_modules, bit_order)
    except pretrained.UnknownFileError as error:
        raise ValueError("; ".join(filter(None, [str(error), nearest(state or {})]))) from None


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
            extra tensors, or wrong shapes, all listed. It names the family that the tensors look like, if another one.
    """
    name = family.__name__.rpartition(".")[2]
    facts = CheckpointFacts(family=name, weights="raw", global_step=content.get("global_step"), warnings=[])
    averages = next((name for name in _AVERAGES if isinstance(content.get(name), Mapping)), None)
    if weights == "ema" and averages is not None:
        content = {"state_dict": content[averages]}
        facts["weights"] = "ema"
    own = state_of(content, path)
    state, other = _unified(family, own), recognized(own)
    hint = "" if other in (None, family) else f"; its tensors look like those of {other.LABEL}"
    try:
        tokenizer = construction.build(family.read_architecture(state))
    except _UNREADABLE as error:
        what = str(error) if isinstance(error, ValueError) else f"a tensor of an unexpected shape ({error!r})"
        raise ValueError(f"{path} cannot be read as {family.LABEL}: {what}{hint}") from error
    names = {name: family.published_name(name, state) for name in tokenizer.state_dict()}
    if getattr(family, "HAS_AVERAGES", False) and weights == "ema":
        if not any(averaged_name(name) in state for name in names.values()):
            raise ValueError(f"{path} holds no EMA weights (model_ema.*); {weight_checks.TAKE_RAW}")
        facts["weights"] = "ema"
    which: Weights = "ema" if averages is None and facts["weights"] == "ema" else "raw"
    try:
        pretrained.load_named(tokenizer, state, names, family.IGNORED, which, path, facts)
    except ValueError as error:
        raise ValueError(f"{error}{hint}") from None
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
        except _UNREADABLE:
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
