"""BSQ-ViT (Zhao et al., arXiv 2406.07548): a vision transformer around binary spherical quantization, 18 or 36 bits.

8x downsampling, images of one size, 256 x 256 or 128 x 128, in [-1, 1]. Indices have the most significant bit first, as
their authors number them. Files hold the moving averages and the raw weights. The authors' figures are of bfloat16
autocast, images resized with Lanczos.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers import _transformers as transformers
from open_magvit2.evaluation.tokenizers._convolutional import count, patterns, renamed, shape
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.binary_spherical import BinarySphericalQuantizer

LABEL = "BSQ-ViT"
IGNORED = re.compile(r"^quantize\.(basis|group_basis)$")
_NAMES = (
    patterns(
        (r"^encoder\.out\.", "quant_embed."),
        (r"^decoder\.embed\.", "post_quant_embed."),
        (r"^encoder\.patches\.", "encoder.conv1."),
        (r"^decoder\.hidden\.", "decoder.ffn.0."),
        (r"^decoder\.to_pixels\.", "decoder.conv_out."),
        (r"\.positions$", ".positional_embedding"),
        (r"\.norm_in\.", ".ln_pre."),
        (r"\.norm_out\.", ".ln_post."),
        (r"\.blocks\.", ".transformer.resblocks."),
    )
    + transformers.CLIP_NAMES
)


class _Part(transformers.FixedSizePart):
    """Base of encoder and decoder: a position for every patch, a layer norm, blocks, a layer norm.

    Args:
        mlp_hidden: of the blocks' MLP.
        latent_channels, width, num_blocks, image_size, patch: see `FixedSizePart`.
    """

    def __init__(
        self, latent_channels: int, width: int, num_blocks: int, mlp_hidden: int, image_size: int, patch: int = 8
    ) -> None:
        super().__init__(latent_channels, width, num_blocks, image_size, patch)
        integer(1, mlp_hidden=mlp_hidden)
        self.mlp_hidden = mlp_hidden
        self.positions = transformers.learned(self.grid_side**2, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = transformers.blocks(width, num_blocks, hidden=mlp_hidden, feed_forward="gelu", qkv_bias=True)
        self.norm_out = nn.LayerNorm(width)

    def transform(self, tokens: Tensor) -> Tensor:
        """[B, N, W] without positions -> [B, N, W]."""
        return self.norm_out(self.blocks(self.norm_in(tokens + self.positions)))


class BSQEncoder(_Part):
    """Images [B, 3, H, W] in [-1, 1] -> latent [B, K, H / patch, W / patch]; arguments of `_Part`."""

    def __init__(
        self, latent_channels: int, width: int, num_blocks: int, mlp_hidden: int, image_size: int, patch: int = 8
    ) -> None:
        super().__init__(latent_channels, width, num_blocks, mlp_hidden, image_size, patch)
        self.patches = nn.Linear(3 * patch**2, width, bias=False)
        self.out = nn.Linear(width, latent_channels)

    def forward(self, image: Tensor) -> Tensor:
        patches = transformers.to_patches(image, self.patch).flatten(1, 2)
        return transformers.to_grid(self.out(self.transform(self.patches(patches))), self.grid_side)


class BSQDecoder(_Part):
    """Codes [B, K, h, w] -> images [B, 3, H, W].

    Args:
        head_hidden: width between the blocks and the pixels.
        latent_channels, width, num_blocks, mlp_hidden, image_size, patch: see `_Part`.
    """

    def __init__(
        self,
        latent_channels: int,
        width: int,
        num_blocks: int,
        mlp_hidden: int,
        image_size: int,
        patch: int = 8,
        head_hidden: int = 3072,
    ) -> None:
        super().__init__(latent_channels, width, num_blocks, mlp_hidden, image_size, patch)
        integer(1, head_hidden=head_hidden)
        self.head_hidden = head_hidden
        self.embed = nn.Linear(latent_channels, width)
        self.hidden = nn.Linear(width, head_hidden)
        self.to_pixels = nn.Linear(head_hidden, 3 * patch**2)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last layer, where VQGAN's adaptive weight of the GAN term compares gradients."""
        return self.to_pixels.weight

    def forward(self, codes: Tensor) -> Tensor:
        grid = (self.grid_side, self.grid_side)
        self.check_codes(codes, grid)
        features = self.transform(self.embed(transformers.to_tokens(codes)))
        pixels = self.to_pixels(self.hidden(features).tanh())
        return transformers.from_patches(pixels.unflatten(1, grid), self.patch)


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are a BSQ-ViT's; the authors' models with a codebook have no `quantize.basis`."""
    return "quant_embed.weight" in state and "quantize.basis" in state


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    num_bits = shape(state, "quant_embed.weight")[0]
    patch = math.isqrt(shape(state, "encoder.conv1.weight")[1] // 3)

    def part(kind: type, name: str, **others: Any) -> dict[str, Any]:
        blocks = f"{name}.transformer.resblocks"
        arguments = {
            "latent_channels": num_bits,
            "width": shape(state, f"{name}.positional_embedding")[-1],
            "num_blocks": count(state, blocks + ".{}.ln_1.weight"),
            "mlp_hidden": shape(state, f"{blocks}.0.mlp.c_fc.weight")[0],
            "image_size": transformers.grid_side(state, f"{name}.positional_embedding") * patch,
            "patch": patch,
        }
        return {"class_path": class_path(kind), "init_args": {**arguments, **others}}

    quantizer = {
        "num_bits": num_bits,
        "entropy_group_bits": shape(state, "quantize.group_basis")[0],
        "bit_order": "most_significant_first",
    }
    arguments = {
        "encoder": part(BSQEncoder, "encoder"),
        "decoder": part(BSQDecoder, "decoder", head_hidden=shape(state, "decoder.ffn.0.weight")[0]),
        "quantizer": {"class_path": class_path(BinarySphericalQuantizer), "init_args": quantizer},
    }
    return {"class_path": class_path(ImageTokenizer), "init_args": arguments}


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors."""
    return renamed(name, _NAMES)
