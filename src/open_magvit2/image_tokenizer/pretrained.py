"""From a checkpoint file to an `ImageTokenizer`: our own checkpoints, which describe it, and the published ones."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from open_magvit2.common import checkpoints, construction, state_dicts
from open_magvit2.image_tokenizer import published, weight_checks
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.saved import IMAGE_SIZE_KEY, PREFIX, TOKENIZER_KEY, WEIGHTS_KEY
from open_magvit2.protocols import CheckpointFacts, Weights
from open_magvit2.quantizers.lookup_free import BitOrder

logger = logging.getLogger(__name__)

_RAW_STATE_KEY = "current_model_state"  # Lightning's WeightAveraging: `state_dict` then holds the averages


class UnknownFileError(ValueError):
    """A file that is neither a checkpoint of ours nor a published Open-MAGVIT2 one."""


def load_tokenizer(
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
    allowed_modules: Sequence[str] = (),
    bit_order: BitOrder | None = None,
) -> ImageTokenizer:
    """Load a checkpoint of ours or a published Open-MAGVIT2 image tokenizer, for inference.

    `open_magvit2.load_tokenizer` opens the files of other systems as well, and says what the arguments mean.

    Raises:
        FileNotFoundError, ValueError: as there; `UnknownFileError` for a file of another system.
    """
    return from_content(checkpoints.read(path), path, weights, device, allowed_modules, bit_order)


def from_content(
    content: Mapping[str, Any],
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
    allowed_modules: Sequence[str] = (),
    bit_order: BitOrder | None = None,
) -> ImageTokenizer:
    """`load_tokenizer` of a file's content, as `checkpoints.read` gives it."""
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be 'ema' or 'raw', got {weights!r}")
    states = {"ema": state_dicts.find_state_dict(content, str(path))}
    if _RAW_STATE_KEY in content:
        states["raw"] = state_dicts.find_state_dict({"state_dict": content[_RAW_STATE_KEY]}, str(path))
    facts = CheckpointFacts(weights=weights, global_step=content.get("global_step"), warnings=[])
    if TOKENIZER_KEY in content:
        return finished(_load_own(content, states, weights, path, allowed_modules, facts), facts, path, device)
    state = _unwrapped(states, (), facts)["ema"]
    inner = checkpoints.with_prefix(state, published.GENERATOR_PREFIX) or state
    if any(".levels." in name for name in inner):
        raise ValueError(
            f"{path} holds weights under our names, but not their architecture ({TOKENIZER_KEY!r}): pass the "
            "checkpoint that training wrote, or the folder with its config.json"
        )
    elif published.is_published(inner):
        tokenizer = _load_published(inner, weights, path, bit_order, facts)
    else:
        raise UnknownFileError(
            f"{path} is neither a checkpoint of ours (no {TOKENIZER_KEY!r}) nor a published file; its weights start "
            f"with {list(inner)[:3]}"
        )
    return finished(tokenizer, facts, path, device)


def finished(
    tokenizer: ImageTokenizer, facts: CheckpointFacts, path: str | Path, device: str | torch.device
) -> ImageTokenizer:
    """A loaded tokenizer for inference, with the facts of its file; warnings are logged."""
    if weight_checks.look_untrained(tokenizer.state_dict()):
        facts["warnings"].append("untrained weights: every normalisation is as it was initialised")
    for warning in facts["warnings"]:
        logger.warning("%s: %s", path, warning)
    tokenizer.checkpoint_facts = facts
    return tokenizer.eval().requires_grad_(False).to(device)


def tokenizer_description(content: Mapping[str, Any]) -> dict[str, Any]:
    """`describe(tokenizer)` of one of our checkpoints; files from before parts were injected are converted."""
    described = content[TOKENIZER_KEY]
    if not isinstance(described, Mapping):
        raise ValueError(f"{TOKENIZER_KEY!r} is a {type(described).__name__}, expected a description: damaged?")
    description = dict(described)
    if "class_path" in description:
        return description
    try:
        quantizer = description.pop("quantizer")
        is_adaptive = description.pop("adaptive_normalization")
        sizes = {"latent_channels": quantizer["init_args"]["num_bits"], "image_channels": 3, **description}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{TOKENIZER_KEY!r} holds {sorted(described)}, expected a class_path") from error
    return published.convolutional_description(sizes, is_adaptive, quantizer)


def check_same_architecture(module: nn.Module, tokenizer: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to continue a training from a checkpoint whose networks are others.

    Arguments that a class lists in `training_arguments` may differ: they leave its codes as they are.

    Args:
        module: the training module, whose state dict the file's must fit.
        tokenizer: its tokenizer.
        checkpoint: the file's content.

    Raises:
        ValueError: with what the file has, what the configuration has, and what to do.
    """
    if TOKENIZER_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(
            f"--ckpt_path names no checkpoint of such a training: it has no {TOKENIZER_KEY!r}, only "
            f"{sorted(checkpoint)[:5]}. Give a file that scripts/train.py wrote (a published one cannot be continued)"
        )
    may_differ = {
        construction.class_path(type(part)): getattr(part, "training_arguments", ()) for part in tokenizer.modules()
    }
    described = tokenizer_description(checkpoint), construction.describe(tokenizer)
    different = construction.differences(*described, may_differ)
    hint = "Take the configuration that it was trained with (config.yaml in its run's folder), or another file"
    if different:
        lines = [f"  {name}: {file} in the file, {mine} in the configuration" for name, file, mine in different]
        raise ValueError("\n".join(["the checkpoint of --ckpt_path holds another tokenizer:", *lines, hint]))
    if has_adversary(module.state_dict()) != has_adversary(checkpoint["state_dict"]):
        place, other = "file", "configuration"
        if has_adversary(checkpoint["state_dict"]):
            place, other = other, place
        raise ValueError(
            f"the checkpoint of --ckpt_path fits a training of the same networks; the {other} has an adversary, the "
            f"{place} has none. --init_from FILE starts a new run from the tokenizer's weights, with or without one"
        )
    checkpoints.check_fits(module, checkpoint["state_dict"], "the checkpoint of --ckpt_path", hint)


def has_adversary(state: Mapping[str, Tensor]) -> bool:
    """Whether the state dict of a training holds a discriminator."""
    return any(name.startswith("adversary.") for name in state)


def _load_own(
    content: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Tensor]],
    weights: Weights,
    path: str | Path,
    allowed_modules: Sequence[str],
    facts: CheckpointFacts,
) -> ImageTokenizer:
    """The tokenizer of a checkpoint of ours; `facts` are filled in.

    `states["ema"]` is the file's state dict, which holds raw weights where there is no `states["raw"]`.
    """
    saved = content.get(WEIGHTS_KEY)  # of `save_pretrained`
    if saved is not None and saved != weights:
        raise ValueError(f"{path} holds {saved} weights only, got weights={weights!r}; load it with weights={saved!r}")
    if weights == "ema" and "raw" not in states and saved is None:
        raise weight_checks.NoAveragesError(
            f"{path} holds no EMA weights (trained without them); {weight_checks.TAKE_RAW}"
        )
    description = tokenizer_description(content)
    tokenizer = construction.build(description, allowed_modules)
    states = _unwrapped(states, [PREFIX + name for name in tokenizer.state_dict()], facts)
    has_both, states = "raw" in states, {"raw": states["ema"], **states}
    tensors = {name: checkpoints.with_prefix(state, PREFIX) for name, state in states.items()}
    hint = _architecture_hint(description, tensors[weights])
    checkpoints.load_strictly(tokenizer, tensors[weights], f"{path} ({weights} weights)", hint, share=True)
    if weights == "ema" and has_both:
        facts["warnings"] += weight_checks.check_averages(tensors["ema"], tensors["raw"], None, str(path))
    facts["checkpoint_format"] = "open_magvit2" if saved is None else "open_magvit2 folder"
    facts["train_image_size"] = content.get(IMAGE_SIZE_KEY)
    facts["ignored_tensors"] = state_dicts.count_by_part(
        name for name in states[weights] if not name.startswith(PREFIX)
    )
    return tokenizer


def _unwrapped(
    states: Mapping[str, Mapping[str, Tensor]], names: Sequence[str], facts: CheckpointFacts
) -> dict[str, dict[str, Tensor]]:
    """`state_dicts.without_wrappers` of every state dict of a file; `facts` get a warning where a name changed."""
    unwrapped = {key: state_dicts.without_wrappers(state, names) for key, state in states.items()}
    if num_wrapped := unwrapped["ema"][1]:
        facts["warnings"].append(f"the prefix of a wrapped module was removed from {num_wrapped} names of the file")
    return {key: state for key, (state, _) in unwrapped.items()}


def _load_published(
    state: Mapping[str, Tensor],
    weights: Weights,
    path: str | Path,
    bit_order: BitOrder | None,
    facts: CheckpointFacts,
) -> ImageTokenizer:
    """The tokenizer of a published file; `facts` are filled in."""
    tokenizer = construction.build(published.read_architecture(state, bit_order))
    names = {name: published.published_name(name) for name in tokenizer.state_dict()}
    if weights == "ema" and not any(published.averaged_name(name) in state for name in names.values()):
        raise weight_checks.NoAveragesError(f"{path} holds no EMA weights (model_ema.*); {weight_checks.TAKE_RAW}")
    facts["checkpoint_format"] = "published"
    facts["train_image_size"] = published.IMAGE_SIZES.get(len(tokenizer.encoder.channel_multipliers))
    load_named(tokenizer, state, names, published.IGNORED, weights, path, facts)
    return tokenizer


def load_named(
    tokenizer: nn.Module,
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    ignored: re.Pattern[str],
    weights: Weights,
    path: str | Path,
    facts: CheckpointFacts,
) -> None:
    """Load a tokenizer strictly from a file of other names; `facts` are filled in.

    Args:
        tokenizer: of the file's architecture.
        state: the file's names to tensors.
        names: the tokenizer's names to those of its raw tensors in the file; moving averages are found by
            `published.averaged_name`.
        ignored: matches names of the file that are no part of the tokenizer.
        weights: which of the two to load.
        path: of the file, for errors.

    Raises:
        ValueError: see `checkpoints.load_strictly`; for moving averages that were never filled.
    """
    of_file = {
        "raw": {published_name: name for name, published_name in names.items()},
        "ema": {published.averaged_name(published_name): name for name, published_name in names.items()},
    }
    wanted, others = of_file[weights], of_file["raw" if weights == "ema" else "ema"]
    # A tensor that is neither wanted nor known keeps its published name, which the strict loading then reports.
    unused = {name for name in state if name in others or ignored.match(name)}
    tensors = {wanted.get(name, name): value for name, value in state.items() if name not in unused}
    checkpoints.load_strictly(tokenizer, tensors, f"{path} ({weights} weights)", share=True)
    if weights == "ema":
        raw = {name: state[other] for other, name in others.items() if other in state}
        updates = state.get(published.NUM_UPDATES)
        num_updates = None if updates is None else int(updates)
        facts["warnings"] += weight_checks.check_averages(tensors, raw, num_updates, str(path))
    facts["ignored_tensors"] = state_dicts.count_by_part(unused)


def _architecture_hint(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Differences between the file's description and the shapes of its tensors; empty for networks of other classes."""
    try:
        read = published.read_architecture({published.published_name(n): value for n, value in tensors.items()})
    except (KeyError, ValueError, AttributeError):
        return ""  # another network, or too little of one: the list of names in the error says it
    different = construction.differences(
        description, read, {description["init_args"]["quantizer"]["class_path"]: ("bit_order",)}
    )
    known = ("channels", "channel_multipliers", "num_residual_blocks", "adaptive_normalization", "latent_channels")
    texts = [f"{n} {said}, its tensors {found}" for n, said, found in different if n.rpartition(".")[2] in known]
    return f"The file's description says {'; '.join(texts)}." if texts else ""
