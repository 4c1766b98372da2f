"""ViT-VQGAN (Yu et al., arXiv 2110.04627), the unofficial weights of thuanz123/enhancing-transformers; Google has none.

Small and base; the large decoder's weights are nowhere. 8,192 codes of 32 channels, compared and decoded with length 1;
images of 256 x 256 in [0, 1]. The paper's rFID is of other weights: that of these files is far from it.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers import _transformers as transformers
from open_magvit2.evaluation.tokenizers._convolutional import count, patterns, renamed, shape
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.vector import VectorQuantizer

LABEL = "ViT-VQGAN (unofficial)"
IGNORED = re.compile(r"^loss\.")
_NAMES = patterns(
    (r"^quantizer\.codebook$", "quantizer.embedding.weight"),
    (r"^encoder\.out\.", "pre_quant."),
    (r"^decoder\.embed\.", "post_quant."),
    (r"^encoder\.positions$", "encoder.en_pos_embedding"),
    (r"^decoder\.positions$", "decoder.de_pos_embedding"),
    (r"^encoder\.patches\.", "encoder.to_patch_embedding.0."),
    (r"^decoder\.to_pixels\.", "decoder.to_pixel.1."),
    (r"\.norm\.", ".transformer.norm."),
    (r"\.blocks\.(\d+)\.", r".transformer.layers.\1."),
    (r"\.attention_norm\.", ".0.norm."),
    (r"\.attention\.qkv\.", ".0.fn.to_qkv."),
    (r"\.attention\.out\.", ".0.fn.to_out."),
    (r"\.feed_forward_norm\.", ".1.norm."),
    (r"\.feed_forward\.up\.", ".1.fn.net.0."),
    (r"\.feed_forward\.down\.", ".1.fn.net.2."),
)


class _Part(transformers.FixedSizePart, ABC):
    """Base of encoder and decoder: a position for every patch, blocks with a tanh MLP, and a layer norm.

    Args:
        num_heads: of 64 channels each, whatever the width.
        hidden: of the MLP.
        latent_channels, width, num_blocks, image_size, patch: see `FixedSizePart`.
    """

    def __init__(
        self,
        latent_channels: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        hidden: int,
        image_size: int = 256,
        patch: int = 8,
    ) -> None:
        super().__init__(latent_channels, width, num_blocks, image_size, patch)
        integer(1, num_heads=num_heads, hidden=hidden)
        self.num_heads = num_heads
        self.hidden = hidden
        self.positions = transformers.learned(1, self.grid_side**2, width)
        self.blocks = transformers.blocks(width, num_blocks, num_heads=num_heads, hidden=hidden, feed_forward="tanh")
        self.norm = nn.LayerNorm(width)
        self.make_layers()

    @abstractmethod
    def make_layers(self) -> None:
        """Layers before and after the blocks."""

    def transform(self, tokens: Tensor) -> Tensor:
        """[B, N, W] without positions -> [B, N, W]."""
        return self.norm(self.blocks(tokens + self.positions))


class ViTEncoder(_Part):
    """Images [B, 3, H, W] in [0, 1] -> latent [B, C, H / patch, W / patch]; arguments of `_Part`."""

    def make_layers(self) -> None:
        self.patches = nn.Conv2d(3, self.width, self.patch, self.patch)
        self.out = nn.Linear(self.width, self.latent_channels)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.transform(transformers.to_tokens(self.patches(image)))
        return transformers.to_grid(self.out(tokens), self.grid_side)


class ViTDecoder(_Part):
    """Codes [B, C, h, w] -> images [B, 3, H, W]; arguments of `_Part`."""

    def make_layers(self) -> None:
        self.embed = nn.Linear(self.latent_channels, self.width)
        self.to_pixels = nn.ConvTranspose2d(self.width, 3, self.patch, self.patch)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last layer, where VQGAN's adaptive weight of the GAN term compares gradients."""
        return self.to_pixels.weight

    def forward(self, codes: Tensor) -> Tensor:
        self.check_codes(codes, (self.grid_side, self.grid_side))
        tokens = self.transform(self.embed(transformers.to_tokens(codes)))
        return self.to_pixels(transformers.to_grid(tokens, self.grid_side))


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are this implementation's."""
    return "encoder.en_pos_embedding" in state and "decoder.de_pos_embedding" in state


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    codebook_size, channels = shape(state, "quantizer.embedding.weight")
    patch = shape(state, "encoder.to_patch_embedding.0.weight")[-1]

    def part(kind: type, name: str, positions: str) -> dict[str, Any]:
        layers = f"{name}.transformer.layers"
        arguments = {
            "latent_channels": channels,
            "width": shape(state, f"{name}.{positions}")[-1],
            "num_blocks": count(state, layers + ".{}.0.norm.weight"),
            "num_heads": shape(state, f"{layers}.0.0.fn.to_out.weight")[1] // transformers.HEAD_WIDTH,
            "hidden": shape(state, f"{layers}.0.1.fn.net.0.weight")[0],
            "image_size": transformers.grid_side(state, f"{name}.{positions}") * patch,
            "patch": patch,
        }
        return {"class_path": class_path(kind), "init_args": arguments}

    quantizer = {"codebook_size": codebook_size, "latent_channels": channels, "normalized": True}
    arguments = {
        "encoder": part(ViTEncoder, "encoder", "en_pos_embedding"),
        "decoder": part(ViTDecoder, "decoder", "de_pos_embedding"),
        "quantizer": {"class_path": class_path(VectorQuantizer), "init_args": quantizer},
        "image_range": (0.0, 1.0),
    }
    return {"class_path": class_path(ImageTokenizer), "init_args": arguments}


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors."""
    return renamed(name, _NAMES)
