"""VQGAN of taming-transformers (arXiv 2012.09841) and of latent-diffusion (arXiv 2112.10752), whose names are the same.

taming: f16 with 1,024 or 16,384 codes, and f8 with a Gumbel quantizer of 8,192. latent-diffusion: vq-f4, vq-f4-noattn,
vq-f8, vq-f8-n256, vq-f16; these also in the names of diffusers' `VQModel`, whose attention has linear layers and whose
decoder counts its levels from the lowest resolution. Images in [-1, 1]; Euclidean nearest code.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers import _convolutional as convolutional
from open_magvit2.quantizers.gumbel import GumbelQuantizer
from open_magvit2.quantizers.vector import VectorQuantizer

LABEL = "VQGAN"
IGNORED = re.compile(r"^(loss\.|model_ema\.|colorize$)")

_DIFFUSERS = convolutional.patterns(
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.", r".\1.\2.block."),
    (r"\.(down|up)_blocks\.(\d+)\.attentions\.", r".\1.\2.attn."),
    (r"\.(down|up)_blocks\.(\d+)\.\1samplers\.0\.", r".\1.\2.\1sample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_(q|k|v)\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.conv_norm_out\.", ".norm_out."),
)
_DECODER_LEVEL = re.compile(r"^(decoder\.up_blocks\.)(\d+)")
_LINEAR = re.compile(r".*\.to_(q|k|v|out\.0)\.weight$")


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are a VQGAN's: taming's names, and less than the four blocks a level that IBQ has."""
    return convolutional.has_taming_names(state) and not convolutional.has_four_blocks(state)


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    if "quantize.proj.weight" in state:
        kind, sizes = GumbelQuantizer, convolutional.shape(state, "quantize.proj.weight", 2)[:2]
    else:
        kind, sizes = VectorQuantizer, convolutional.codebook_shape(state)
    arguments = dict(zip(("codebook_size", "latent_channels"), sizes, strict=True))
    return convolutional.describe_taming(state, {"class_path": class_path(kind), "init_args": arguments})


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors."""
    if name == "quantizer.codebook" and "quantize.embed.weight" in state:
        return "quantize.embed.weight"  # the Gumbel quantizer's
    return convolutional.renamed(name, convolutional.TAMING_NAMES).replace("quantizer.projection", "quantize.proj")


def unified(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state dict of diffusers' `VQModel` under taming's names; any other as it is."""
    if "encoder.down_blocks.0.resnets.0.norm1.weight" not in state or "quantize.embedding.weight" not in state:
        return state
    last = convolutional.count(state, "decoder.up_blocks.{}.resnets.0.norm1.weight") - 1

    def name(own: str) -> str:
        counted = _DECODER_LEVEL.sub(lambda match: f"{match[1]}{last - int(match[2])}", own)
        return convolutional.renamed(counted, _DIFFUSERS)

    return {
        name(own): value[:, :, None, None] if _LINEAR.match(own) and value.ndim == 2 else value
        for own, value in state.items()
    }
