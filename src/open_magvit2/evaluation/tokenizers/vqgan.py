"""VQGAN of taming-transformers (arXiv 2012.09841) and of latent-diffusion (arXiv 2112.10752), whose names are the same.

taming: f16 with 1,024 or 16,384 codes, and f8 with a Gumbel quantizer of 8,192. latent-diffusion: vq-f4, vq-f4-noattn,
vq-f8, vq-f8-n256, vq-f16. Images in [-1, 1]; Euclidean nearest code.
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
