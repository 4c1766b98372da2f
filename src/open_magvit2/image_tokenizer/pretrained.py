"""From a checkpoint file to an `ImageTokenizer`: our own checkpoints, and the published ones with their names mapped.

The published files (Luo et al., Open-MAGVIT2, arXiv 2409.04410) hold raw weights under `encoder.` and `decoder.` and
moving averages under `model_ema.` with every dot of the name removed. Removing dots loses information, so names are
made from the model's and looked up, never parsed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from open_magvit2.common import checkpoints
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.protocols import Quantizer
from open_magvit2.quantizers.lookup_free import BitOrder, LookupFreeQuantizer

Weights = Literal["averaged", "raw"]

TOKENIZER_KEY = "open_magvit2_tokenizer"  # our checkpoints carry `ImageTokenizer.config()` under it
_PREFIX = "tokenizer."  # of the tokenizer within the LightningModule
_RAW_STATE_KEY = "current_model_state"  # Lightning's WeightAveraging: the averages are then in `state_dict`

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
    weights: Weights = "averaged",
    device: str | torch.device = "cpu",
    quantizer: Quantizer | None = None,
    bit_order: BitOrder | None = None,
) -> ImageTokenizer:
    """Load a tokenizer for inference from our checkpoint or a published Open-MAGVIT2 image tokenizer file.

    The architecture comes from the file. Loading is strict, and no code from the file is executed.

    Args:
        path: `.ckpt` of ours, or a published one such as imagenet_256_B.ckpt.
        weights: "averaged" (moving averages: validation and all published figures) or "raw".
        device: where to put the model.
        quantizer: needed for our checkpoints trained with a quantizer from outside `open_magvit2.quantizers`.
        bit_order: of a published file's indices; by default B files are read most significant bit first, L files
            least significant first, as their authors number them.

    Returns:
        the tokenizer in eval mode, its parameters without gradients.

    Raises:
        FileNotFoundError, ValueError: no file; a damaged, unsafe or unknown one; averaged weights asked for and
            absent; missing or extra tensors, or wrong shapes, all listed.

    Example:
        >>> tokenizer = load_tokenizer("imagenet_256_B.ckpt")  # doctest: +SKIP
        >>> indices = tokenizer.tokenize(image)  # [B, 3, 256, 256] in [-1, 1] -> [B, 16, 16]  # doctest: +SKIP
    """
    if weights not in ("averaged", "raw"):
        raise ValueError(f"weights must be 'averaged' or 'raw', got {weights!r}")
    content = checkpoints.read(path)
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise ValueError(f"{path} has no state_dict; it holds {sorted(content)[:10]}: not a tokenizer checkpoint")
    if TOKENIZER_KEY in content:
        tokenizer = from_config(content[TOKENIZER_KEY], quantizer)
        tensors = _own_tensors(content, weights, path)
    elif "encoder.conv_in.weight" in state:
        config = published_config(state, bit_order)
        tokenizer = from_config(config, quantizer)
        tensors = _published_tensors(tokenizer, state, weights, path)
    else:
        raise ValueError(
            f"{path} is neither a checkpoint of ours (no {TOKENIZER_KEY!r}) nor a published one (no encoder.conv_in."
            f"weight); its weights start with {list(state)[:3]}"
        )
    checkpoints.load_strictly(tokenizer, tensors, f"{path} ({weights} weights)")
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


def _own_tensors(content: Mapping[str, Any], weights: Weights, path: str | Path) -> dict[str, Tensor]:
    averaged = _RAW_STATE_KEY in content
    if weights == "averaged" and not averaged:
        raise ValueError(f"{path} holds no averaged weights (trained without averaging); load it with weights='raw'")
    state = content[_RAW_STATE_KEY] if averaged and weights == "raw" else content["state_dict"]
    return checkpoints.with_prefix(state, _PREFIX)


def _published_tensors(
    tokenizer: ImageTokenizer, state: Mapping[str, Tensor], weights: Weights, path: str | Path
) -> dict[str, Tensor]:
    """Our names to the file's tensors; whatever is neither ours nor known to stand beside keeps its published name."""
    ours = {name: published_name(name) for name in tokenizer.state_dict()}
    raw = {published: name for name, published in ours.items()}
    averaged = {"model_ema." + published.replace(".", ""): name for name, published in ours.items()}
    if weights == "averaged" and not any(name in state for name in averaged):
        raise ValueError(f"{path} holds no averaged weights (model_ema.*); load it with weights='raw'")
    wanted, beside = (averaged, raw) if weights == "averaged" else (raw, averaged)
    return {
        wanted.get(name, name): value
        for name, value in state.items()
        if name not in beside and not _IGNORED.match(name)
    }
