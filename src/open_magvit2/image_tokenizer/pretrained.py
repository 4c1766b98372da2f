"""From a checkpoint file to an `ImageTokenizer`: our own checkpoints, and the published ones with their names mapped.

The published files (Luo et al., Open-MAGVIT2, arXiv 2409.04410) hold raw weights under `encoder.` and `decoder.` and
moving averages under `model_ema.` with every dot of the name removed. Removing dots loses information, so names are
made from the model's and looked up, never parsed.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from open_magvit2.common import checkpoints
from open_magvit2.image_tokenizer import weight_checks
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.protocols import CheckpointFacts, Quantizer
from open_magvit2.quantizers.lookup_free import BitOrder, LookupFreeQuantizer

logger = logging.getLogger(__name__)

Weights = Literal["ema", "raw"]

TOKENIZER_KEY = "open_magvit2_tokenizer"  # our checkpoints carry `ImageTokenizer.config()` under it
IMAGE_SIZE_KEY = "open_magvit2_image_size"  # and the side of the images they were trained on, or None
_PREFIX = "tokenizer."  # of the tokenizer within the LightningModule
_RAW_STATE_KEY = "current_model_state"  # Lightning's WeightAveraging: the averages are then in `state_dict`

# Published files do not say the size of the images they were trained on; their number of levels does.
_PUBLISHED_IMAGE_SIZES = {4: 128, 5: 256}

# our name -> published name
_PUBLISHED_NAMES = (
    (re.compile(r"^encoder\.levels\.(\d+)\.blocks"), r"encoder.down.\1.block"),
    (re.compile(r"^encoder\.levels\.(\d+)\.downsample"), r"encoder.down.\1.downsample"),
    (re.compile(r"^decoder\.levels\.(\d+)\.blocks"), r"decoder.up.\1.block"),
    (re.compile(r"^decoder\.levels\.(\d+)\.upsample\.conv\."), r"decoder.up.\1.upsample.conv1."),
    (re.compile(r"^decoder\.levels\.(\d+)\.adaptive\.scale\."), r"decoder.adaptive.\1.gamma."),
    (re.compile(r"^decoder\.levels\.(\d+)\.adaptive\.bias\."), r"decoder.adaptive.\1.beta."),
    (re.compile(r"^(encoder|decoder)\.middle\."), r"\1.mid_block."),
    (re.compile(r"\.shortcut\."), r".nin_shortcut."),
)
# what a published file holds beside the tokenizer: the losses' networks and the bookkeeping of the averages
_IGNORED = re.compile(r"^(loss\.|model_ema\.(decay|num_updates)$|model_ema\.lossdiscriminator)")


def load_tokenizer(
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
    quantizer: Quantizer | None = None,
    bit_order: BitOrder | None = None,
) -> ImageTokenizer:
    """Load a tokenizer for inference from our checkpoint or a published Open-MAGVIT2 image tokenizer file.

    The architecture comes from the file. Loading is strict, and no code from the file is executed.

    Args:
        path: `.ckpt` of ours, or a published one such as imagenet_256_B.ckpt.
        weights: "ema" (moving averages: validation and all published figures) or "raw".
        device: where to put the model.
        quantizer: needed for our checkpoints trained with a quantizer from outside `open_magvit2.quantizers`.
        bit_order: of a published file's indices; by default B files are read most significant bit first, L files
            least significant first, as their authors number them.

    Returns:
        the tokenizer in eval mode, its parameters without gradients.

    Raises:
        FileNotFoundError, ValueError: no file; a damaged, unsafe or unknown one; EMA weights asked for and
            absent; missing or extra tensors, or wrong shapes, all listed.

    Example:
        >>> tokenizer = load_tokenizer("imagenet_256_B.ckpt")  # doctest: +SKIP
        >>> indices = tokenizer.tokenize(image)  # [B, 3, 256, 256] in [-1, 1] -> [B, 16, 16]  # doctest: +SKIP
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be 'ema' or 'raw', got {weights!r}")
    content = checkpoints.read(path)
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise ValueError(f"{path} has no state_dict; it holds {sorted(content)[:10]}: not a tokenizer checkpoint")
    content["state_dict"], wrapped = weight_checks.without_wrappers(state)
    if _RAW_STATE_KEY in content:
        content[_RAW_STATE_KEY], _ = weight_checks.without_wrappers(content[_RAW_STATE_KEY])
    facts = CheckpointFacts(global_step=content.get("global_step"), warnings=[])
    if wrapped:
        facts["warnings"].append(f"'module.' or '_orig_mod.' was taken out of {wrapped} names of the file")
    if TOKENIZER_KEY in content:
        tokenizer = _load_own(content, weights, path, quantizer, facts)
    elif "encoder.conv_in.weight" in content["state_dict"]:
        tokenizer = _load_published(content["state_dict"], weights, path, quantizer, bit_order, facts)
    else:
        raise ValueError(
            f"{path} is neither a checkpoint of ours (no {TOKENIZER_KEY!r}) nor a published one (no encoder.conv_in."
            f"weight); its weights start with {list(state)[:3]}"
        )
    if weight_checks.look_untrained(tokenizer.state_dict()):
        facts["warnings"].append("untrained weights: every normalisation is as it was initialised")
    for warning in facts["warnings"]:
        logger.warning("%s: %s", path, warning)
    tokenizer.checkpoint_facts = facts
    return tokenizer.eval().requires_grad_(False).to(device)


def from_config(config: Mapping[str, Any], quantizer: Quantizer | None = None) -> ImageTokenizer:
    """Build the tokenizer that `ImageTokenizer.config()` described.

    A checkpoint must not choose which code runs: only LFQ is built by name, any other quantizer is passed in.
    """
    arguments = dict(config)
    described = arguments.pop("quantizer")
    if quantizer is None:
        known = f"{LookupFreeQuantizer.__module__}.{LookupFreeQuantizer.__qualname__}"
        if described["class_path"] != known:
            raise ValueError(
                f"the checkpoint was trained with the quantizer {described['class_path']}: build one with "
                f"{described['init_args']} and pass it as `quantizer`"
            )
        quantizer = LookupFreeQuantizer(**described["init_args"])
    return ImageTokenizer(quantizer, **arguments)


def check_same_architecture(module: nn.Module, config: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse to continue a training from a checkpoint whose networks are others.

    What trains a quantizer and leaves its codes as they are (temperature, entropy) may differ.

    Args:
        module: the training module, whose state dict the file's must fit.
        config: `ImageTokenizer.config()` of its tokenizer.
        checkpoint: the file's content.

    Raises:
        ValueError: saying what the file has, what the configuration has, and what to do.
    """
    if TOKENIZER_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(
            f"--ckpt_path names no checkpoint of such a training: it has no {TOKENIZER_KEY!r}, only "
            f"{sorted(checkpoint)[:5]}. Give a file that scripts/train.py wrote (a published one cannot be continued)"
        )
    theirs = checkpoint[TOKENIZER_KEY]
    described = [(name, theirs.get(name), value) for name, value in config.items() if name != "quantizer"]
    quantizers = [value["quantizer"] for value in (theirs, config)]
    described.append(("quantizer", *(quantizer["class_path"] for quantizer in quantizers)))
    described += [
        (f"quantizer.{name}", *(quantizer["init_args"].get(name) for quantizer in quantizers))
        for name in ("num_bits", "bit_order")
    ]
    lines = [
        f"  {name}: {file} in the file, {mine} in the configuration" for name, file, mine in described if file != mine
    ]
    hint = "Take the configuration that it was trained with (config.yaml in its run's folder), or another file"
    if lines:
        raise ValueError("\n".join(["the checkpoint of --ckpt_path holds another tokenizer:", *lines, hint]))
    checkpoints.check_fits(module, checkpoint["state_dict"], "the checkpoint of --ckpt_path", hint)


def published_name(name: str) -> str:
    """The published state-dict name of one of our tokenizer's tensors."""
    for pattern, replacement in _PUBLISHED_NAMES:
        name = pattern.sub(replacement, name)
    return name


def published_config(state: Mapping[str, Tensor], bit_order: BitOrder | None = None) -> dict[str, Any]:
    """`ImageTokenizer.config()` of a published state dict, read off the shapes of its tensors."""
    channels = state["encoder.conv_in.weight"].shape[0]
    widths = []
    while (first := f"encoder.down.{len(widths)}.block.0.conv1.weight") in state:
        widths.append(state[first].shape[0])
    num_residual_blocks = 0
    while f"encoder.down.0.block.{num_residual_blocks}.conv1.weight" in state:
        num_residual_blocks += 1
    adaptive = "decoder.adaptive.0.gamma.weight" in state
    if bit_order is None:
        bit_order = "least_significant_first" if adaptive else "most_significant_first"
    if "encoder.conv_out.weight" not in state or not widths:
        raise ValueError("the file holds only a part of an encoder: encoder.conv_out or encoder.down.0 is missing")
    quantizer = LookupFreeQuantizer(state["encoder.conv_out.weight"].shape[0], bit_order=bit_order)
    return {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "num_residual_blocks": num_residual_blocks,
        "norm_groups": 32,
        "adaptive_normalization": adaptive,
        "quantizer": {
            "class_path": f"{LookupFreeQuantizer.__module__}.{LookupFreeQuantizer.__qualname__}",
            "init_args": quantizer.config(),
        },
    }


def _load_own(
    content: Mapping[str, Any], weights: Weights, path: str | Path, quantizer: Quantizer | None, facts: CheckpointFacts
) -> ImageTokenizer:
    """The tokenizer of a checkpoint of ours; `facts` are filled in."""
    if weights == "ema" and _RAW_STATE_KEY not in content:
        raise ValueError(f"{path} holds no EMA weights (trained without averaging); load it with weights='raw'")
    config = content[TOKENIZER_KEY]
    tokenizer = from_config(config, quantizer)
    raw = content.get(_RAW_STATE_KEY, content["state_dict"])
    states = {"ema": content["state_dict"], "raw": raw}
    tensors = {name: checkpoints.with_prefix(state, _PREFIX) for name, state in states.items()}
    hint = _architecture_hint(config, tensors[weights])
    checkpoints.load_strictly(tokenizer, tensors[weights], f"{path} ({weights} weights)", hint)
    if weights == "ema":
        facts["warnings"] += weight_checks.check_averages(tensors["ema"], tensors["raw"], None, str(path))
    facts["checkpoint_format"] = "open_magvit2"
    facts["train_image_size"] = content.get(IMAGE_SIZE_KEY)
    facts["ignored_tensors"] = weight_checks.count_by_part(
        name for name in states[weights] if not name.startswith(_PREFIX)
    )
    return tokenizer


def _load_published(
    state: Mapping[str, Tensor],
    weights: Weights,
    path: str | Path,
    quantizer: Quantizer | None,
    bit_order: BitOrder | None,
    facts: CheckpointFacts,
) -> ImageTokenizer:
    """The tokenizer of a published file; `facts` are filled in."""
    config = published_config(state, bit_order)
    tokenizer = from_config(config, quantizer)
    ours = {name: published_name(name) for name in tokenizer.state_dict()}
    names = {
        "raw": {published: name for name, published in ours.items()},
        "ema": {"model_ema." + published.replace(".", ""): name for name, published in ours.items()},
    }
    if weights == "ema" and not any(name in state for name in names["ema"]):
        raise ValueError(f"{path} holds no EMA weights (model_ema.*); load it with weights='raw'")
    wanted, beside = names[weights], names["raw" if weights == "ema" else "ema"]
    # Whatever is neither ours nor known to stand beside keeps its published name, and is refused by it.
    ignored = {name for name in state if name in beside or _IGNORED.match(name)}
    tensors = {wanted.get(name, name): value for name, value in state.items() if name not in ignored}
    checkpoints.load_strictly(tokenizer, tensors, f"{path} ({weights} weights)")
    if weights == "ema":
        raw = {name: state[published] for published, name in beside.items() if published in state}
        updates = state.get("model_ema.num_updates")
        num_updates = None if updates is None else int(updates)
        facts["warnings"] += weight_checks.check_averages(tensors, raw, num_updates, str(path))
    facts["checkpoint_format"] = "published"
    facts["train_image_size"] = _PUBLISHED_IMAGE_SIZES.get(len(config["channel_multipliers"]))
    facts["ignored_tensors"] = weight_checks.count_by_part(ignored)
    return tokenizer


def _architecture_hint(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """What the file's configuration says otherwise than the shapes of its tensors; empty where both agree."""
    published = {published_name(name): value for name, value in tensors.items()}
    try:
        found = published_config(published)
    except (KeyError, ValueError):
        return ""  # too little of an encoder is there: the list of missing names says it
    found["num_bits"] = found["quantizer"]["init_args"]["num_bits"]
    said = {**config, "num_bits": config["quantizer"]["init_args"].get("num_bits")}
    names = ("channels", "channel_multipliers", "num_residual_blocks", "adaptive_normalization", "num_bits")
    different = [f"{name} {said[name]}, its tensors {found[name]}" for name in names if said[name] != found[name]]
    return f"The file's configuration says {'; '.join(different)}." if different else ""
