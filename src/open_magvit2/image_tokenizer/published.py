"""The published Open-MAGVIT2 image tokenizer files: their tensor names, and their architecture read off the shapes.

The files (Luo et al., arXiv 2409.04410) hold raw weights under `encoder.` and `decoder.` and moving averages under
`model_ema.` with every dot of the name removed. Removing dots loses information, so names are made from the model's and
looked up, never parsed.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from open_magvit2.common.construction import class_path
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.lookup_free import BitOrder, LookupFreeQuantizer

# The files do not say the size of the images they were trained on; their number of levels does.
IMAGE_SIZES = {4: 128, 5: 256}
NORM_GROUPS = 32  # nor do they say the groups of the normalizations, which are always as many
NUM_UPDATES = "model_ema.num_updates"
GENERATOR_PREFIX = "first_stage_model."  # of the tokenizer in a generator's file
# what a file holds besides the tokenizer: the losses' networks, constants of the quantizer that some versions saved,
# the bookkeeping of the averages
IGNORED = re.compile(
    r"^(loss\.|quantize\.(mask|zero|codebook)$|model_ema\.((decay|num_updates|quantize(mask|zero|codebook))$|loss))"
)

# arguments of `Encoder` and `Decoder` that the shapes tell; the reference's code knows no others
_SIZES = (
    "latent_channels",
    "image_channels",
    "channels",
    "channel_multipliers",
    "num_residual_blocks",
    "norm_groups",
    "adaptive_normalization",
)
# our name -> published name
_NAMES = (
    (re.compile(r"^encoder\.levels\.(\d+)\.blocks"), r"encoder.down.\1.block"),
    (re.compile(r"^encoder\.levels\.(\d+)\.downsample"), r"encoder.down.\1.downsample"),
    (re.compile(r"^decoder\.levels\.(\d+)\.blocks"), r"decoder.up.\1.block"),
    (re.compile(r"^decoder\.levels\.(\d+)\.upsample\.conv\."), r"decoder.up.\1.upsample.conv1."),
    (re.compile(r"^decoder\.levels\.(\d+)\.adaptive\.scale\."), r"decoder.adaptive.\1.gamma."),
    (re.compile(r"^decoder\.levels\.(\d+)\.adaptive\.bias\."), r"decoder.adaptive.\1.beta."),
    (re.compile(r"^(encoder|decoder)\.middle\."), r"\1.mid_block."),
    (re.compile(r"\.shortcut\."), r".nin_shortcut."),
)


def is_published(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of a published file; a file of moving averages alone is one, too.

    Other networks call their first convolution the same, but give it a bias.
    """
    return _find(state, "encoder.conv_in.weight") is not None and _find(state, "encoder.conv_in.bias") is None


def published_name(name: str) -> str:
    """The published name of one of our tokenizer's raw tensors."""
    for pattern, replacement in _NAMES:
        name = pattern.sub(replacement, name)
    return name


def ema_name(name: str) -> str:
    """The published name of the moving average of one of our tokenizer's tensors."""
    return averaged_name(published_name(name))


def read_architecture(state: Mapping[str, Tensor], bit_order: BitOrder | None = None) -> dict[str, Any]:
    """`describe(tokenizer)` of a published state dict, read off the shapes of its tensors.

    Args:
        state: published names to tensors.
        bit_order: of the indices; by default B files are read most significant bit first and L files least significant
            first, as their authors number them.

    Raises:
        ValueError: if a part of the encoder is missing.
    """
    conv_in, conv_out = (_find(state, f"encoder.conv_{name}.weight") for name in ("in", "out"))
    widths = []
    while (first := _find(state, f"encoder.down.{len(widths)}.block.0.conv1.weight")) is not None:
        widths.append(first.shape[0])
    if conv_in is None or conv_out is None or not widths:
        raise ValueError(
            "the file holds only a part of an encoder: encoder.conv_in, encoder.conv_out or encoder.down.0 is missing"
        )
    channels, image_channels = conv_in.shape[:2]
    num_residual_blocks = 0
    while _find(state, f"encoder.down.0.block.{num_residual_blocks}.conv1.weight") is not None:
        num_residual_blocks += 1
    is_adaptive = _find(state, "decoder.adaptive.0.gamma.weight") is not None
    if bit_order is None:
        bit_order = "least_significant_first" if is_adaptive else "most_significant_first"
    num_bits = conv_out.shape[0]
    return convolutional_description(
        {
            "latent_channels": num_bits,
            "image_channels": image_channels,
            "channels": channels,
            "channel_multipliers": [width // channels for width in widths],
            "num_residual_blocks": num_residual_blocks,
            "norm_groups": NORM_GROUPS,
        },
        is_adaptive,
        {
            "class_path": class_path(LookupFreeQuantizer),
            "init_args": {"num_bits": num_bits, "bit_order": bit_order},
        },
    )


def published_state(raw: ImageTokenizer, averaged: ImageTokenizer | None = None) -> dict[str, Tensor]:
    """The state dict of a published file, which the reference's own code loads: the inverse of reading one.

    Args:
        raw: the trained weights of a tokenizer of our `Encoder`, `Decoder` and LFQ.
        averaged: the moving averages, of the same architecture; None leaves `model_ema.` out.

    Raises:
        ValueError: for another encoder, decoder or quantizer, for which the reference has no names, or other groups.
    """
    kinds = tuple(type(part) for part in (raw.encoder, raw.decoder, raw.quantizer))
    if kinds != (Encoder, Decoder, LookupFreeQuantizer):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"the published form has Encoder, Decoder and LookupFreeQuantizer alone, got {names}")
    others = {
        f"{part}.{name}": getattr(network, name)
        for part, network in (("encoder", raw.encoder), ("decoder", raw.decoder))
        for name, parameter in inspect.signature(type(network)).parameters.items()
        if name not in _SIZES and getattr(network, name) != parameter.default
    }
    if others:
        raise ValueError(f"the published form has MAGVIT-v2's networks alone, got {others}")
    groups = {module.num_groups for module in raw.modules() if isinstance(module, nn.GroupNorm)}
    if groups != {NORM_GROUPS}:
        raise ValueError(f"the published form has {NORM_GROUPS} groups in every normalization, got {sorted(groups)}")
    state = {published_name(name): value for name, value in raw.state_dict().items()}
    if averaged is not None:
        parameters = dict(averaged.named_parameters())
        state["model_ema.decay"] = torch.tensor(0.999)
        state[NUM_UPDATES] = torch.tensor(-1, dtype=torch.int32)  # the reference's word for a fixed decay
        state |= {ema_name(name): value.detach() for name, value in parameters.items()}
    return state


def convolutional_description(
    sizes: Mapping[str, Any], adaptive_normalization: bool, quantizer: Mapping[str, Any]
) -> dict[str, Any]:
    """The description of a tokenizer whose `Encoder` and `Decoder` have the same sizes."""
    decoder = {**sizes, "adaptive_normalization": adaptive_normalization}
    return {
        "class_path": class_path(ImageTokenizer),
        "init_args": {
            "encoder": {"class_path": class_path(Encoder), "init_args": dict(sizes)},
            "decoder": {"class_path": class_path(Decoder), "init_args": decoder},
            "quantizer": dict(quantizer),
        },
    }


def averaged_name(published: str) -> str:
    """The name of the moving average of a published tensor."""
    return "model_ema." + published.replace(".", "")


def _find(state: Mapping[str, Tensor], published: str) -> Tensor | None:
    """A tensor by its published raw name, or its moving average."""
    return state.get(published, state.get(averaged_name(published)))
