"""IBQ, index backpropagation (Shi et al., arXiv 2412.02692): VQGAN's networks with 4 and 5 blocks a level.

1,024 to 262,144 codes of 256 channels, trained on ImageNet or on image-text shards ("pretrain"). Images in [-1, 1]; the
code of the largest dot product, nothing normalised. The files hold moving averages, as Open-MAGVIT2's do.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers import _convolutional as convolutional
from open_magvit2.quantizers.index_backprop import IndexBackpropagationQuantizer

LABEL = "IBQ"
IGNORED = re.compile(r"^(loss\.|model_ema\.((decay|num_updates)$|loss))")
HAS_AVERAGES = True


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are an IBQ tokenizer's: taming's names, and four blocks a level."""
    return convolutional.has_taming_names(state) and convolutional.has_four_blocks(state)


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    convolutional.shape(state, "encoder.down.0.block.3.norm1.weight")  # VQGAN's files are the same but for this
    arguments = dict(zip(("codebook_size", "latent_channels"), convolutional.codebook_shape(state), strict=True))
    return convolutional.describe_taming(
        state, {"class_path": class_path(IndexBackpropagationQuantizer), "init_args": arguments}
    )


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors."""
    return convolutional.renamed(name, convolutional.TAMING_NAMES)
