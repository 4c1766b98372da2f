"""OmniTokenizer's encoder and decoder for images (Wang et al., arXiv 2406.09399), a clip of one frame for its authors.

A stack of blocks over the image, then one over time, which for one frame sees every patch alone and still changes it.
Features are [B, h, w, D] between the blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.evaluation.tokenizers._transformers import from_patches, to_patches
from open_magvit2.layers.rotary import axial_rotary_table, rotate
from open_magvit2.layers.transformer import GEGLU
from open_magvit2.protocols import SizeRule

Positions = Literal["rotary", "bias"]
_TEMPERATURE = 8.0  # of the similarities of queries and keys of length 1
_SLOPE = 0.1  # of the leaky ReLU below 0


class ScaleNorm(nn.Module):
    """A layer norm that learns a scale; its bias, zero in training, is a buffer in the files."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], self.gamma, self.beta)


class PositionGenerator(nn.Conv3d):
    """A 3 x 3 x 3 convolution of every channel by itself, causal in time: of one frame it sees the last slice alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, kernel_size=3, groups=width)

    def forward(self, features: Tensor) -> Tensor:
        image = F.conv2d(features.movedim(-1, 1), self.weight[:, :, -1], self.bias, padding=1, groups=self.groups)
        return image.movedim(1, -1)


class PositionBias(nn.Sequential):
    """Bias of the similarity of two patches, by their distance (Swin V2, arXiv 2111.09883): float [H, N, N].

    An MLP of the signed logarithms of the rows and columns between them, one output a head.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        layers = (nn.Linear(2, width), nn.LeakyReLU(_SLOPE), nn.Linear(width, width), nn.LeakyReLU(_SLOPE))
        super().__init__(*layers, nn.Linear(width, num_heads))

    def forward(self, grid: Sequence[int]) -> Tensor:
        weight = self[0].weight
        axes = [torch.arange(1 - side, side, device=weight.device) for side in grid]
        distances = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(weight.dtype)
        table = super().forward(distances.sign() * distances.abs().log1p())
        return table.flatten(0, 1)[_distance_index(grid, weight.device)].permute(2, 0, 1)


class CosineAttention(nn.Module):
    """Attention whose queries and keys have length 1, then a learned scale a channel; keys and values are not normed.

    Args:
        width: D, channels in and out.
        num_heads, head_width: H and their channels.
        has_bias: add a `PositionBias`.
    """

    def __init__(self, width: int, num_heads: int, head_width: int, has_bias: bool) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = ScaleNorm(width)
        self.query = nn.Linear(width, num_heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * num_heads * head_width, bias=False)
        self.query_scale = nn.Parameter(torch.ones(head_width))
        self.key_scale = nn.Parameter(torch.ones(head_width))
        self.out = nn.Linear(num_heads * head_width, width, bias=False)
        self.position_bias = PositionBias(width, num_heads) if has_bias else None

    def forward(self, features: Tensor, rotary: Tensor | None) -> Tensor:
        """[B, h, w, D] -> [B, h, w, D], every patch seeing all; `rotary` is a table for the h w patches."""
        grid = features.shape[1:3]
        tokens = features.flatten(1, 2)
        parts = (self.query(self.norm(tokens)), *self.key_value(tokens).chunk(2, dim=-1))
        query, key, value = (part.unflatten(2, (-1, self.head_width)).transpose(1, 2) for part in parts)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        query = F.normalize(query, dim=-1) * self.query_scale
        key = F.normalize(key, dim=-1) * self.key_scale
        bias = None if self.position_bias is None else self.position_bias(grid)
        attended = F.scaled_dot_product_attention(query, key, value, bias, scale=_TEMPERATURE)
        return self.out(attended.transpose(1, 2).flatten(2)).unflatten(1, grid)


class SingleFrameAttention(CosineAttention):
    """Attention over time for one frame: the softmax of one similarity is 1, and the value comes through.

    It has the tensors of `CosineAttention`, which the files hold for clips.
    """

    def forward(self, features: Tensor, rotary: Tensor | None) -> Tensor:
        """[B, h, w, D] -> [B, h, w, D], every patch by itself."""
        return self.out(self.key_value(features).chunk(2, dim=-1)[1])


class WindowAttention(nn.Module):
    """Attention inside windows, with a learned bias for each distance of two patches (Swin, arXiv 2103.14030).

    Args:
        width: D, channels in and out.
        num_heads: H.
        window: side of a window in patches.
    """

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.norm = ScaleNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.projection = nn.Linear(width, width)

    def forward(self, features: Tensor, rotary: Tensor | None) -> Tensor:
        """[B, h, w, D] -> [B, h, w, D]; no rotation here."""
        sides = {"p": self.window, "q": self.window}
        tokens = rearrange(self.norm(features), "b (h p) (w q) c -> b h w (p q) c", **sides)
        query, key, value = rearrange(self.qkv(tokens), "b h w n (k a c) -> k b h w a n c", k=3, a=self.num_heads)
        bias = self.table[_distance_index((self.window, self.window), features.device)].permute(2, 0, 1)
        attended = F.scaled_dot_product_attention(query, key, value, bias.expand(*query.shape[:4], -1, -1))
        return self.projection(rearrange(attended, "b h w a (p q) c -> b (h p) (w q) (a c)", **sides))


class Block(nn.Module):
    """(x + positions(x),) x + attention(x), x + GEGLU(norm(x))."""

    def __init__(self, width: int, hidden: int, position: nn.Module | None, attention: nn.Module) -> None:
        super().__init__()
        self.position = position
        self.attention = attention
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = GEGLU(width, hidden)

    def forward(self, features: Tensor, rotary: Tensor | None) -> Tensor:
        if self.position is not None:
            features = features + self.position(features)
        features = features + self.attention(features, rotary)
        return features + self.feed_forward(self.feed_forward_norm(features))


class _Part(nn.Module, ABC):
    """Base of encoder and decoder: a stack of blocks over the image, and one over time.

    Args:
        latent_channels: C, of the latent and the codes.
        width: D.
        spatial: kinds of the blocks over the image, "t" (`CosineAttention` of all patches) or "w" (`WindowAttention`).
        num_temporal: blocks over time, kind "t".
        num_heads, head_width: of the attention.
        hidden: of the GEGLU.
        positions: of the "t" blocks over the image, besides the convolution: "rotary" or "bias".
        window: side of a window in patches.
        patch: side of a patch.

    Raises:
        ValueError: for numbers below 1, or an unknown kind.
    """

    def __init__(
        self,
        latent_channels: int,
        width: int,
        spatial: str,
        num_temporal: int,
        num_heads: int,
        head_width: int,
        hidden: int,
        positions: Positions,
        window: int = 8,
        patch: int = 8,
    ) -> None:
        super().__init__()
        integer(1, latent_channels=latent_channels, width=width, num_heads=num_heads, head_width=head_width)
        integer(1, hidden=hidden, window=window, patch=patch)
        if set(spatial) - set("tw") or positions not in ("rotary", "bias"):
            raise ValueError(
                f"spatial must be of 't' and 'w', positions 'rotary' or 'bias'; got {spatial!r} and {positions!r}"
            )
        self.latent_channels = latent_channels
        self.width = width
        self.spatial = spatial
        self.num_temporal = num_temporal
        self.num_heads = num_heads
        self.head_width = head_width
        self.hidden = hidden
        self.positions = positions
        self.window = window
        self.patch = patch
        self.size_rule = SizeRule((patch * window, patch * window), square=True)
        self.spatial_blocks = nn.ModuleList(self._block(kind) for kind in spatial)
        self.spatial_norm = ScaleNorm(width)
        self.temporal_blocks = nn.ModuleList(self._block("time") for _ in range(num_temporal))
        self.temporal_norm = ScaleNorm(width)
        self.make_layers()

    @abstractmethod
    def make_layers(self) -> None:
        """Layers before and after the blocks."""

    def over_image(self, features: Tensor) -> Tensor:
        """The blocks over the image: [B, h, w, D] -> [B, h, w, D]."""
        grid = features.shape[1:3]
        rotary = None
        if self.positions == "rotary":
            # columns and rows take turns in the pairs of channels, columns first
            table = axial_rotary_table(grid, self.head_width).unflatten(1, (2, -1))
            rotary = table.flip(1).transpose(1, 2).flatten(1, 2).to(features.device)
        for block in self.spatial_blocks:
            features = block(features, rotary)
        return self.spatial_norm(features)

    def over_time(self, features: Tensor) -> Tensor:
        """The blocks over time, for one frame: [B, h, w, D] -> [B, h, w, D]."""
        for block in self.temporal_blocks:
            features = block(features, None)
        return self.temporal_norm(features)

    def _block(self, kind: str) -> Block:
        if kind == "w":
            return Block(self.width, self.hidden, None, WindowAttention(self.width, self.num_heads, self.window))
        attention = SingleFrameAttention if kind == "time" else CosineAttention
        has_bias = kind == "t" and self.positions == "bias"
        return Block(
            self.width,
            self.hidden,
            PositionGenerator(self.width),
            attention(self.width, self.num_heads, self.head_width, has_bias),
        )


class OmniEncoder(_Part):
    """Images [B, 3, H, W] in [-0.5, 0.5] -> latent [B, C, H / patch, W / patch]; arguments of `_Part`."""

    def make_layers(self) -> None:
        num_values = 3 * self.patch**2
        self.patches = nn.Sequential(
            nn.LayerNorm(num_values), nn.Linear(num_values, self.width), nn.LayerNorm(self.width)
        )
        self.out = nn.Linear(self.width, self.latent_channels)

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(h, w) of the latent of an image of a size (H, W)."""
        self.size_rule.check(size)
        return tuple(side // self.patch for side in size)

    def forward(self, image: Tensor) -> Tensor:
        features = self.over_image(self.patches(to_patches(image, self.patch)))
        return self.out(self.over_time(features)).movedim(-1, 1)


class OmniDecoder(_Part):
    """Codes [B, C, h, w] -> images [B, 3, H, W]; arguments of `_Part`."""

    def make_layers(self) -> None:
        self.embed = nn.Linear(self.latent_channels, self.width)
        self.to_pixels = nn.Linear(self.width, 3 * self.patch**2)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last layer, where VQGAN's adaptive weight of the GAN term compares gradients."""
        return self.to_pixels.weight

    def forward(self, codes: Tensor) -> Tensor:
        if codes.ndim != 4:
            raise ValueError(f"expected codes [B, {self.latent_channels}, h, w], got {tuple(codes.shape)}")
        self.size_rule.check([side * self.patch for side in codes.shape[2:]])
        features = self.over_image(self.over_time(self.embed(codes.movedim(1, -1))))
        return from_patches(self.to_pixels(features), self.patch)


def _distance_index(grid: Sequence[int], device: torch.device) -> Tensor:
    """Of each pair of cells (i, j) of a grid, where i - j lies in a table of all distances: int64 [N, N]."""
    rows, columns = grid
    cells = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1).flatten(0, 1)
    row, column = (cells[:, None] - cells[None]).unbind(-1)
    return ((row + rows - 1) * (2 * columns - 1) + column + columns - 1).to(device)
