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

    A name that is no part of such a file is kept, and loading refuses it.

    In flax the encoder's blocks are ResBlock_0 to _9 in the order of its levels, then two in the middle; the decoder's
    begin with the middle, then go from the lowest resolution to the highest.
    """
    if f"{_FLAX}quantizer.codebook" not in state:
        return state
    levels = (convolutional.count(state, f"{_FLAX}encoder.ResBlock_{{}}.Conv_0.kernel") - 2) // 2
    names = _port_names(levels)
    return {names.get(name, name): _port_layout(name, value) for name, value in state.items()}


def _port_names(levels: int) -> dict[str, str]:
    """Every name in a flax file of so many levels -> its name in the PyTorch port."""
    blocks = {f"encoder.ResBlock_{2 * i + b}": f"encoder.down.{i}.block.{b}" for i in range(levels) for b in (0, 1)}
    blocks |= {f"encoder.ResBlock_{2 * levels + b}": f"encoder.mid.{b}" for b in (0, 1)}
    blocks |= {f"decoder.ResBlock_{b}": f"decoder.mid.{b}" for b in (0, 1)}
    for i in range(levels):
        behind = 2 + 2 * (levels - 1 - i)  # the middle, and the levels of lower resolution
        blocks |= {f"decoder.ResBlock_{behind + b}": f"decoder.up.{i}.block.{b}" for b in (0, 1)}
    inside = {"GroupNorm_0": "norm1", "GroupNorm_1": "norm2", "Conv_0": "conv1", "Conv_1": "conv2"}
    inside |= {"Conv_2": "nin_shortcut"}
    layers = {f"{block}.{layer}": f"{own}.{name}" for block, own in blocks.items() for layer, name in inside.items()}
    for part in ("encoder", "decoder"):
        layers |= {f"{part}.Conv_0": f"{part}.conv_in", f"{part}.GroupNorm_0": f"{part}.norm_out"}
    layers |= {"encoder.Conv_1": "encoder.conv_out", f"decoder.Conv_{levels}": "decoder.conv_out"}
    layers |= {f"decoder.Conv_{levels - i}": f"decoder.up.{i}.upsample_conv" for i in range(1, levels)}
    names = {f"{_FLAX}quantizer.codebook": "quantize.embedding.weight"}
    for layer, own in layers.items():
        weight = "scale" if "GroupNorm" in layer.rpartition(".")[2] else "kernel"
        names |= {f"{_FLAX}{layer}.{weight}": f"{own}.weight", f"{_FLAX}{layer}.bias": f"{own}.bias"}
    return names


def _port_layout(name: str, value: Tensor) -> Tensor:
    """A kernel [height, width, in, out] -> [out, in, height, width]."""
    return value.permute(3, 2, 0, 1).contiguous() if name.endswith(".kernel") and value.ndim == 4 else value
