"""MaskGIT's VQGAN (Chang et al., arXiv 2202.04200): 1,024 codes of 256 channels, 16x downsampling.

Two containers: the PyTorch port's file (maskgit-vqgan-imagenet-f16-256.bin) and Google's own, msgpack of flax, whose
kernels have the channels last. Networks of images in [0, 1]; Euclidean nearest code.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers import _convolutional as convolutional
from open_magvit2.quantizers.vector import VectorQuantizer

LABEL = "MaskGIT VQGAN"
IGNORED = re.compile(r"^$")
_NAMES = (
    convolutional.BLOCK_NAMES
    + convolutional.QUANTIZER_NAMES
    + convolutional.patterns(
        (r"^encoder\.levels\.", "encoder.down."),
        (r"^decoder\.levels\.", "decoder.up."),
        (r"\.blocks\.", ".block."),
        (r"\.middle\.", ".mid."),
        (r"\.upsample\.conv\.", ".upsample_conv."),
    )
)
_FLAX = "params."  # before every name of a flax file


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are MaskGIT's, in the names of the PyTorch port."""
    return "decoder.up.1.upsample_conv.weight" in state and "quantize.embedding.weight" in state


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    num_codes, channels = convolutional.codebook_shape(state)
    description = convolutional.describe(
        state,
        "encoder.down.{}.block".format,
        "decoder.up.{}.block".format,
        {
            "class_path": class_path(VectorQuantizer),
            "init_args": {"codebook_size": num_codes, "latent_channels": channels},
        },
        both={"num_middle_blocks": 2, "shortcut_of_output": True},
        encoder={"downsampling": "average"},
        decoder={"upsampling": "nearest"},
    )
    description["init_args"]["image_range"] = [0.0, 1.0]
    return description


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors."""
    return convolutional.renamed(name, _NAMES)


def unified(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state dict of a flax file under the names, and in the layout, of the PyTorch port; any other as it is.

    In flax the encoder's blocks are ResBlock_0 to _9 in the order of its levels, then two in the middle; the decoder's
    begin with the middle, then go from the lowest resolution to the highest.
    """
    if f"{_FLAX}quantizer.codebook" not in state:
        return state
    levels = (convolutional.count(state, f"{_FLAX}encoder.ResBlock_{{}}.Conv_0.kernel") - 2) // 2
    return {_port_name(name.removeprefix(_FLAX), levels): _port_layout(name, value) for name, value in state.items()}


def _port_name(name: str, levels: int) -> str:
    """The PyTorch port's name of a tensor of flax."""
    if name == "quantizer.codebook":
        return "quantize.embedding.weight"
    part, layer, *inner = name.split(".")
    kind, number = layer.rsplit("_", 1)
    number = int(number)
    if kind == "ResBlock":
        if part == "encoder":
            place = f"down.{number // 2}.block.{number % 2}" if number < 2 * levels else f"mid.{number - 2 * levels}"
        else:
            behind = number - 2
            place = f"mid.{number}" if behind < 0 else f"up.{levels - 1 - behind // 2}.block.{behind % 2}"
        inside, leaf = inner
        names = {"GroupNorm_0": "norm1", "GroupNorm_1": "norm2", "Conv_0": "conv1", "Conv_1": "conv2"}
        return f"{part}.{place}.{names.get(inside, 'nin_shortcut')}.{_leaf(leaf)}"
    if kind == "GroupNorm":
        place = "norm_out"
    elif number == 0:
        place = "conv_in"
    elif part == "decoder" and number < levels:
        place = f"up.{levels - number}.upsample_conv"
    else:
        place = "conv_out"
    return f"{part}.{place}.{_leaf(inner[0])}"


def _leaf(name: str) -> str:
    return "bias" if name == "bias" else "weight"  # kernel, scale


def _port_layout(name: str, value: Tensor) -> Tensor:
    """A kernel [height, width, in, out] -> [out, in, height, width]."""
    return value.permute(3, 2, 0, 1).contiguous() if name.endswith(".kernel") else value
