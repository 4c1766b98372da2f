"""Encoder and decoder as vision transformers: a grid of tokens, one a patch, or a row of tokens for the whole image.

Sources: ViT-VQGAN (Yu et al., arXiv 2110.04627) for a grid; TiTok (Yu et al., arXiv 2406.07550) for a row, where
learned tokens join the patches and the encoder keeps what becomes of them. The blocks are those of the generators, with
axial rotary positions instead of learned ones, so that a grid model takes images of any size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.layers.resampling import depth_to_space
from open_magvit2.layers.rotary import axial_rotary_table
from open_magvit2.layers.transformer import EPS, TransformerBlock
from open_magvit2.protocols import SizeRule


class _Transformer(nn.Module):
    """Pre-norm blocks over a grid of patches, and over a row of further tokens that have no place on the grid."""

    def __init__(self, width: int, num_heads: int, num_blocks: int) -> None:
        super().__init__()
        self.head_width = width // num_heads
        self.blocks = nn.ModuleList(TransformerBlock(width, num_heads) for _ in range(num_blocks))
        self.norm = nn.RMSNorm(width, eps=EPS)
        self._rotary: dict[tuple, Tensor] = {}

    def forward(self, grid: Tensor, row: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[B, D, h, w] and [N, D] or [B, N, D] -> [B, D, h, w] and [B, N, D]."""
        features = grid.flatten(2).transpose(1, 2)
        number = features.shape[1]
        if row is not None:
            features = torch.cat([features, row.expand(features.shape[0], -1, -1)], dim=1)
        rotary = self._table(tuple(grid.shape[2:]), features.shape[1] - number, grid.device)
        for block in self.blocks:
            features = block(features, rotary)
        features = self.norm(features)
        on_grid = features[:, :number].transpose(1, 2).unflatten(2, grid.shape[2:])
        return on_grid, None if row is None else features[:, number:]

    def _table(self, grid: tuple[int, ...], num_further: int, device: torch.device) -> Tensor:
        """The rotary table of a grid, with the identity for further tokens; kept in float32, no buffer."""
        exporting = torch.compiler.is_exporting()  # then the grid is a variable, and the graph computes the table
        key = None if exporting else (grid, num_further, device)
        if key in self._rotary:
            return self._rotary[key]
        with torch.inference_mode(False):  # a table that an evaluation made must serve training as well
            table = axial_rotary_table(grid, self.head_width)
            identity = torch.tensor([1.0, 0.0], dtype=table.dtype).expand(num_further, table.shape[1], 2)
            table = torch.cat([table, identity]).to(device, torch.float32)
        if not exporting:
            self._rotary[key] = table
        return table


class _TransformerPart(nn.Module, ABC):
    """Constructor of the encoder and the decoder.

    Args:
        latent_channels: C, of the latent and the codes.
        image_channels: of the image.
        patch: side of a patch.
        width, num_heads, num_blocks: of the transformer; the defaults are the base size (86 M parameters).
        num_latents: None for a latent at every patch; N for a row of N.
        image_size: (H, W), needed with `num_latents` alone: a row holds images of one size.

    Raises:
        ValueError: for numbers below 1, or a row without an image size.
    """

    def __init__(
        self,
        latent_channels: int = 18,
        image_channels: int = 3,
        patch: int = 16,
        width: int = 768,
        num_heads: int = 12,
        num_blocks: int = 12,
        num_latents: int | None = None,
        image_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.size_rule = _size_rule(patch, num_latents, image_size)
        integer(1, latent_channels=latent_channels, image_channels=image_channels, num_blocks=num_blocks)
        self.latent_channels = latent_channels
        self.image_channels = image_channels
        self.patch = patch
        self.width = width
        self.num_heads = num_heads
        self.num_blocks = num_blocks
        self.num_latents = num_latents
        self.image_size = image_size
        self.transformer = _Transformer(width, num_heads, num_blocks)
        self.make_layers()

    @abstractmethod
    def make_layers(self) -> None:
        """Layers before and after the transformer."""

    def row(self) -> nn.Parameter | None:
        """A learned vector [N, D] for every latent of a row; None for a grid."""
        return None if self.num_latents is None else nn.Parameter(torch.randn(self.num_latents, self.width) * 0.02)


class TransformerEncoder(_TransformerPart):
    """Images [B, image_channels, H, W] in [-1, 1] -> latent [B, C, H / patch, W / patch], or [B, C, num_latents]."""

    def make_layers(self) -> None:
        self.embed = nn.Conv2d(self.image_channels, self.width, self.patch, self.patch)
        self.latents = self.row()
        self.out = nn.Linear(self.width, self.latent_channels)

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(h, w) of the latent of an image of a size (H, W), or (num_latents,)."""
        self.size_rule.check(size)
        return tuple(side // self.patch for side in size) if self.num_latents is None else (self.num_latents,)

    def forward(self, image: Tensor) -> Tensor:
        grid, row = self.transformer(self.embed(image), self.latents)
        return self.out(grid.movedim(1, -1) if row is None else row).movedim(-1, 1)


class TransformerDecoder(_TransformerPart):
    """Codes [B, C, h, w], or [B, C, num_latents] -> images [B, image_channels, H, W].

    Every patch of the output starts from its code, or, for a row of codes, from one learned token.
    """

    def make_layers(self) -> None:
        self.embed = nn.Linear(self.latent_channels, self.width)
        self.mask_token = None if self.num_latents is None else nn.Parameter(torch.randn(self.width, 1, 1) * 0.02)
        self.latent_positions = self.row()
        self.to_pixels = nn.Conv2d(self.width, self.image_channels * self.patch**2, kernel_size=1)
        # across the edges of the patches
        self.conv_out = nn.Conv2d(self.image_channels, self.image_channels, kernel_size=3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution, where VQGAN's adaptive weight of the GAN term compares gradients."""
        return self.conv_out.weight

    def forward(self, codes: Tensor) -> Tensor:
        embedded = self.embed(codes.movedim(1, -1))
        if self.num_latents is None:
            grid, _ = self.transformer(embedded.movedim(-1, 1))
        else:
            patches = [side // self.patch for side in self.image_size]
            mask = self.mask_token.expand(codes.shape[0], -1, *patches)
            grid, _ = self.transformer(mask, embedded + self.latent_positions)
        return self.conv_out(depth_to_space(self.to_pixels(grid), (self.patch, self.patch)))


def _size_rule(patch: int, num_latents: int | None, image_size: Sequence[int] | None) -> SizeRule:
    integer(1, patch=patch)
    if num_latents is None:
        if image_size is not None:
            raise ValueError(f"image_size = {image_size} needs num_latents: a grid of tokens takes images of any size")
        return SizeRule((patch, patch))
    integer(1, num_latents=num_latents)
    if image_size is None or len(image_size) != 2 or any(side < patch or side % patch for side in image_size):
        raise ValueError(
            f"num_latents = {num_latents} needs the image_size (H, W), multiples of the patch {patch}, got {image_size}"
        )
    return SizeRule((patch, patch), fixed=tuple(image_size))
