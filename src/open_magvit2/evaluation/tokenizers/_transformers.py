"""Common parts of the transformer families: blocks with layer norms and biases, patches, learned positions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.evaluation.tokenizers._convolutional import patterns, shape
from open_magvit2.layers.transformer import TransformerBlock
from open_magvit2.protocols import SizeRule

HEAD_WIDTH = 64  # in all published files; no shape tells it where the heads are as wide as the block

# inside a block, as CLIP names its parts
CLIP_NAMES = patterns(
    (r"\.attention_norm\.", ".ln_1."),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.out\.", ".attn.out_proj."),
    (r"\.feed_forward_norm\.", ".ln_2."),
    (r"\.feed_forward\.up\.", ".mlp.c_fc."),
    (r"\.feed_forward\.down\.", ".mlp.c_proj."),
)


def blocks(width: int, number: int, **options: Any) -> nn.Sequential:
    """Pre-norm blocks [B, N, width] -> same, with layer norms and heads of 64; options of `TransformerBlock`."""
    options = {"num_heads": width // HEAD_WIDTH, "norm": "layer", "head_width": HEAD_WIDTH, "out_bias": True, **options}
    return nn.Sequential(*(TransformerBlock(width, **options) for _ in range(number)))


def learned(*shape: int) -> nn.Parameter:
    """A learned tensor, small random numbers at first."""
    return nn.Parameter(torch.empty(shape).normal_(std=0.02))


def to_tokens(grid: Tensor) -> Tensor:
    """[B, D, h, w] -> [B, h w, D], in raster order."""
    return grid.flatten(2).transpose(1, 2)


def to_grid(tokens: Tensor, side: int) -> Tensor:
    """[B, side^2, D] -> [B, D, side, side]."""
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def to_patches(image: Tensor, patch: int) -> Tensor:
    """The pixels of every patch as a vector, channel by channel: [B, 3, H, W] -> [B, h, w, 3 patch^2]."""
    return rearrange(image, "b c (h p) (w q) -> b h w (c p q)", p=patch, q=patch)


def from_patches(pixels: Tensor, patch: int) -> Tensor:
    """The inverse of `to_patches`: [B, h, w, 3 patch^2] -> [B, 3, H, W]."""
    return rearrange(pixels, "b h w (c p q) -> b c (h p) (w q)", p=patch, q=patch)


class FixedSizePart(nn.Module):
    """Base of an encoder or decoder of square images of one size, whose patches have learned positions.

    Args:
        latent_channels: C, of the latent and the codes.
        width, num_blocks: of the transformer.
        image_size: side of the image.
        patch: side of a patch.

    Raises:
        ValueError: for numbers below 1, or a patch that does not divide the side.
    """

    def __init__(self, latent_channels: int, width: int, num_blocks: int, image_size: int, patch: int) -> None:
        super().__init__()
        integer(1, latent_channels=latent_channels, width=width, num_blocks=num_blocks, patch=patch)
        if image_size < patch or image_size % patch:
            raise ValueError(f"image_size must be a multiple of the patch {patch}, got {image_size}")
        self.latent_channels = latent_channels
        self.width = width
        self.num_blocks = num_blocks
        self.image_size = image_size
        self.patch = patch
        self.grid_side = image_size // patch
        self.size_rule = SizeRule((patch, patch), fixed=(image_size, image_size))

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(h, w) of the latent of an image of a size (H, W)."""
        self.size_rule.check(size)
        return self.grid_side, self.grid_side

    def check_codes(self, codes: Tensor, grid: Sequence[int]) -> None:
        """Refuse codes of another grid than the one whose positions were learned.

        Raises:
            ValueError: with both shapes.
        """
        expected = (self.latent_channels, *grid)
        if tuple(codes.shape[1:]) != expected:
            raise ValueError(f"expected codes [B, {', '.join(map(str, expected))}], got {tuple(codes.shape)}")


def grid_side(state: Mapping[str, Tensor], positions: str, num_further: int = 0) -> int:
    """Side of the square grid of patches, by the name of the positions [..., patches + further tokens, D] in a file.

    Raises:
        ValueError: if they are missing, or there is no such grid.
    """
    number = shape(state, positions)[-2] - num_further
    side = math.isqrt(max(number, 0))
    if side < 1 or side**2 != number:
        raise ValueError(f"{positions} has {number} positions of patches, which make no square grid")
    return side
