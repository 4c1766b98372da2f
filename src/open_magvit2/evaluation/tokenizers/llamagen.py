"""LlamaGen's VQ tokenizers (Sun et al., arXiv 2406.06525): VQ-16 and VQ-8, 16,384 codes of 8 channels.

VQGAN's networks under other names; latent and codes are compared, and decoded, with length 1. Images in [-1, 1]. Files
are {"model": ...}, training files {"ema": ...} as well.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers import _convolutional as convolutional
from open_magvit2.quantizers.vector import VectorQuantizer

LABEL = "LlamaGen VQ"
IGNORED = re.compile(r"^quantize\.codebook_used$")
_NAMES = (
    convolutional.BLOCK_NAMES
    + convolutional.QUANTIZER_NAMES
    + convolutional.patterns((r"\.levels\.", ".conv_blocks."), (r"\.blocks\.", ".res."), (r"\.middle\.", ".mid."))
)
_DECODER_LEVEL = re.compile(r"^(decoder\.conv_blocks\.)(\d+)")


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are LlamaGen's."""
    return "encoder.conv_blocks.0.res.0.norm1.weight" in state and "quantize.embedding.weight" in state


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    last = _last_level(state)
    num_codes, channels = convolutional.codebook_shape(state)
    return convolutional.describe(
        state,
        "encoder.conv_blocks.{}.res".format,
        lambda level: f"decoder.conv_blocks.{last - level}.res",
        {
            "class_path": class_path(VectorQuantizer),
            "init_args": {"codebook_size": num_codes, "latent_channels": channels, "normalized": True},
        },
        both=convolutional.vqgan_options(middle_attention=True),
        encoder=convolutional.VQGAN_ENCODER,
        decoder=convolutional.VQGAN_DECODER,
    )


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors; the decoder's levels count from the lowest resolution."""
    last = _last_level(state)
    return _DECODER_LEVEL.sub(lambda match: f"{match[1]}{last - int(match[2])}", convolutional.renamed(name, _NAMES))


def _last_level(state: Mapping[str, Tensor]) -> int:
    return convolutional.count(state, "encoder.conv_blocks.{}.res.0.conv1.weight") - 1
