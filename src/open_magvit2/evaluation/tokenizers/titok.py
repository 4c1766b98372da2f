"""TiTok (Yu et al., "An Image is Worth 32 Tokens", arXiv 2406.07550): a row of tokens, 32 to 256, for 256 x 256 pixels.

S-128, B-64 and L-32, the figures of the paper, predict a mixture of MaskGIT's codes, which MaskGIT's decoder, part of
the files, turns into pixels. SL-256, BL-128 and the like, which came later, predict pixels. Images in [0, 1].
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers import _transformers as transformers
from open_magvit2.evaluation.tokenizers import maskgit
from open_magvit2.evaluation.tokenizers._convolutional import count, patterns, renamed, shape
from open_magvit2.evaluation.tokenizers._transformers import learned
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.layers.resampling import depth_to_space
from open_magvit2.quantizers.vector import VectorQuantizer

LABEL = "TiTok"
IGNORED = re.compile(r"^$")
_NAMES = (
    patterns(
        (r"^encoder\.latents$", "latent_tokens"),
        (r"^quantizer\.codebook$", "quantize.embedding.weight"),
        (r"^decoder\.head\.codebook$", "pixel_quantize.embedding.weight"),
        (r"^decoder\.head\.logits\.", "decoder.ffn."),
        (r"^decoder\.head\.to_pixels\.", "decoder.ffn.0."),
        (r"^decoder\.head\.conv_out\.", "decoder.conv_out."),
        (r"^encoder\.patches\.", "encoder.patch_embed."),
        (r"^encoder\.out\.", "encoder.conv_out."),
        (r"^decoder\.embed\.", "decoder.decoder_embed."),
        (r"\.transformer\.class_token$", ".class_embedding"),
        (r"\.transformer\.positions$", ".positional_embedding"),
        (r"\.transformer\.latent_positions$", ".latent_token_positional_embedding"),
        (r"\.transformer\.norm_in\.", ".ln_pre."),
        (r"\.transformer\.norm_out\.", ".ln_post."),
        (r"\.transformer\.blocks\.", ".transformer."),
    )
    + transformers.CLIP_NAMES
)
_PIXEL_DECODER = "decoder.head.decoder."
MASKGIT = {  # arguments of its decoder
    "channel_multipliers": (1, 1, 2, 2, 4),
    "num_residual_blocks": 2,
    "upsampling": "nearest",
    "shortcut_of_output": True,
}


class _Transformer(nn.Module):
    """Blocks over [class token, patches, latents], each with its learned position."""

    def __init__(self, width: int, num_blocks: int, num_patches: int, num_latents: int) -> None:
        super().__init__()
        self.class_token = learned(1, width)
        self.positions = learned(1 + num_patches, width)
        self.latent_positions = learned(num_latents, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = transformers.blocks(width, num_blocks, feed_forward="gelu", qkv_bias=True)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, patches: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[B, P, W] and [B, N, W] to the same; batches of one are repeated."""
        batch, number = max(len(patches), len(latents)), patches.shape[1]
        on_grid = torch.cat([self.class_token.expand(batch, -1, -1), patches.expand(batch, -1, -1)], dim=1)
        in_row = latents.expand(batch, -1, -1) + self.latent_positions
        features = torch.cat([on_grid + self.positions, in_row], dim=1)
        features = self.norm_out(self.blocks(self.norm_in(features)))
        return features[:, 1 : 1 + number], features[:, 1 + number :]


class TiTokEncoder(transformers.FixedSizePart):
    """Images [B, 3, H, W] in [0, 1] -> latent [B, C, num_latents].

    Args:
        num_latents: N, tokens an image.
        reshaped: the latents [B, N, W] are read as [B, W, N] without transposing them. The authors' first models were
            trained with this mistake and need it.
        latent_channels, width, num_blocks, image_size, patch: see `FixedSizePart`.
    """

    def __init__(
        self,
        latent_channels: int,
        width: int,
        num_blocks: int,
        num_latents: int,
        reshaped: bool,
        image_size: int = 256,
        patch: int = 16,
    ) -> None:
        super().__init__(latent_channels, width, num_blocks, image_size, patch)
        integer(1, num_latents=num_latents)
        self.num_latents = num_latents
        self.reshaped = reshaped
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.latents = learned(num_latents, width)
        self.transformer = _Transformer(width, num_blocks, self.grid_side**2, num_latents)
        self.out = nn.Conv2d(width, latent_channels, kernel_size=1)

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(num_latents,), whatever the image."""
        self.size_rule.check(size)
        return (self.num_latents,)

    def forward(self, image: Tensor) -> Tensor:
        _, latents = self.transformer(transformers.to_tokens(self.patches(image)), self.latents[None])
        shape = (len(image), self.width, self.num_latents, 1)
        latents = latents.reshape(shape) if self.reshaped else latents.transpose(1, 2).unsqueeze(-1)
        return self.out(latents).flatten(2)


class CodeMixture(nn.Module):
    """Features [B, W, h, w] -> the average of another tokenizer's codes under a softmax -> its decoder -> image.

    Args:
        width: W.
        codebook_size: of the other tokenizer.
        decoder: of the other tokenizer.
    """

    def __init__(self, width: int, codebook_size: int, decoder: nn.Module) -> None:
        super().__init__()
        self.width = width
        self.codebook_size = codebook_size
        self.logits = nn.Sequential(
            nn.Conv2d(width, 2 * width, kernel_size=1), nn.Tanh(), nn.Conv2d(2 * width, codebook_size, kernel_size=1)
        )
        self.codebook = learned(codebook_size, decoder.latent_channels)
        self.decoder = decoder

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last layer."""
        return self.decoder.last_layer

    def forward(self, features: Tensor) -> Tensor:
        probabilities = self.logits(features).softmax(dim=1)
        return self.decoder(torch.einsum("bkhw,kc->bchw", probabilities, self.codebook))


class PixelHead(nn.Module):
    """Features [B, W, h, w] -> the pixels of every patch -> a convolution across their edges -> image.

    Args:
        width: W.
        patch: side of a patch.
    """

    def __init__(self, width: int, patch: int = 16) -> None:
        super().__init__()
        self.width = width
        self.patch = patch
        self.to_pixels = nn.Conv2d(width, 3 * patch**2, kernel_size=1)
        self.conv_out = nn.Conv2d(3, 3, kernel_size=3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last layer."""
        return self.conv_out.weight

    def forward(self, features: Tensor) -> Tensor:
        return self.conv_out(depth_to_space(self.to_pixels(features), (self.patch, self.patch)))


class TiTokDecoder(transformers.FixedSizePart):
    """Codes [B, C, num_latents] -> images [B, 3, H, W]: every patch starts from one learned token.

    Args:
        num_latents: N, tokens an image.
        head: from features of the patches to the image: `CodeMixture` or `PixelHead`.
        latent_channels, width, num_blocks, image_size, patch: see `FixedSizePart`.
    """

    def __init__(
        self,
        latent_channels: int,
        width: int,
        num_blocks: int,
        num_latents: int,
        head: nn.Module,
        image_size: int = 256,
        patch: int = 16,
    ) -> None:
        super().__init__(latent_channels, width, num_blocks, image_size, patch)
        integer(1, num_latents=num_latents)
        self.num_latents = num_latents
        self.embed = nn.Linear(latent_channels, width)
        self.mask_token = learned(1, 1, width)
        self.transformer = _Transformer(width, num_blocks, self.grid_side**2, num_latents)
        self.head = head

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last layer, where VQGAN's adaptive weight of the GAN term compares gradients."""
        return self.head.last_layer

    def forward(self, codes: Tensor) -> Tensor:
        self.check_codes(codes, (self.num_latents,))
        masks = self.mask_token.expand(-1, self.grid_side**2, -1)
        patches, _ = self.transformer(masks, self.embed(codes.transpose(1, 2)))
        return self.head(transformers.to_grid(patches, self.grid_side))


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are a TiTok tokenizer's: latent tokens and their positions."""
    return "latent_tokens" in state and "encoder.latent_token_positional_embedding" in state


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    mixes_codes = "decoder.ffn.2.weight" in state
    codebook_size, channels = shape(state, "quantize.embedding.weight", 2)
    patch = shape(state, "encoder.patch_embed.weight")[-1]
    width = shape(state, "decoder.mask_token")[-1]

    def part(kind: type, name: str, **others: Any) -> dict[str, Any]:
        arguments = {
            "latent_channels": channels,
            "width": shape(state, f"{name}.class_embedding")[-1],
            "num_blocks": count(state, name + ".transformer.{}.ln_1.weight"),
            "num_latents": shape(state, "latent_tokens")[0],
            "image_size": transformers.grid_side(state, f"{name}.positional_embedding", num_further=1) * patch,
            "patch": patch,
        }
        return {"class_path": class_path(kind), "init_args": {**arguments, **others}}

    head = {"class_path": class_path(PixelHead), "init_args": {"width": width, "patch": patch}}
    if mixes_codes:
        pixel_codes, pixel_channels = shape(state, "pixel_quantize.embedding.weight", 2)
        decoder = {"class_path": class_path(Decoder), "init_args": {"latent_channels": pixel_channels, **MASKGIT}}
        arguments = {"width": width, "codebook_size": pixel_codes, "decoder": decoder}
        head = {"class_path": class_path(CodeMixture), "init_args": arguments}
    quantizer = {"codebook_size": codebook_size, "latent_channels": channels, "normalized": mixes_codes}
    arguments = {
        "encoder": part(TiTokEncoder, "encoder", reshaped=mixes_codes),
        "decoder": part(TiTokDecoder, "decoder", head=head),
        "quantizer": {"class_path": class_path(VectorQuantizer), "init_args": quantizer},
        "image_range": (0.0, 1.0),
    }
    return {"class_path": class_path(ImageTokenizer), "init_args": arguments}


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors."""
    if name.startswith(_PIXEL_DECODER):
        return f"pixel_{maskgit.published_name(name.removeprefix('decoder.head.'), state)}"
    return renamed(name, _NAMES)
