"""The autoregressive generator: spatial blocks over positions, factorized blocks inside each position.

Source: Open-MAGVIT2 (Luo et al., arXiv 2409.04410, section 3.2). Position t of the input is the token at t - 1, the sum
of its sub-tokens' embeddings; position 0 is the class. The spatial blocks turn it into a context. The factorized blocks
predict the sub-tokens of token t one after the other: slot 0 is the context, slot g the embedding of sub-token g - 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import at_least, within
from open_magvit2.generators.factorization import Factorization
from open_magvit2.layers.attention import KeyValueCache
from open_magvit2.layers.rotary import axial_rotary_table
from open_magvit2.layers.transformer import EPS, TransformerBlock


class AutoregressiveGenerator(nn.Module):
    """Class-conditional next-token prediction over a grid of factorized tokens.

    The defaults are the published B model. L has (36, 3) blocks of width 1280 with 20 heads, XL has (48, 4) of width
    1536 with 24 heads.

    Args:
        bits: of the sub-tokens (see `Factorization`).
        grid: (rows, columns) of the tokens, or any number of axes; tokens come in raster order.
        num_classes: the class table has one row more, `null_class`, for classifier-free guidance.
        width: D.
        num_heads: of every attention.
        num_spatial_blocks, num_factorized_blocks: numbers of blocks.
        hidden: of every SwiGLU; None for 8 D / 3 rounded up to a multiple of 256.
        dropout: on the input embeddings, after attention and after SwiGLU.
        normalize_queries_and_keys: RMSNorm in every attention; off in the published models.
        rotate_class_slot: give the class slot, and slot 0 inside a position, the identity rotation. The published
            models multiply their queries and keys by zero instead.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        bits: Sequence[int] = (6, 12),
        grid: Sequence[int] = (16, 16),
        num_classes: int = 1000,
        width: int = 1024,
        num_heads: int = 16,
        num_spatial_blocks: int = 24,
        num_factorized_blocks: int = 2,
        hidden: int | None = None,
        dropout: float = 0.1,
        normalize_queries_and_keys: bool = False,
        rotate_class_slot: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, grid=grid, num_classes=num_classes, width=width, num_spatial_blocks=num_spatial_blocks)
        at_least(0, num_factorized_blocks=num_factorized_blocks)
        within(0, 1, dropout=dropout)
        self.bits = tuple(bits)
        self.grid = tuple(grid)
        self.num_classes = num_classes
        self.width = width
        self.num_heads = num_heads
        self.num_spatial_blocks = num_spatial_blocks
        self.num_factorized_blocks = num_factorized_blocks
        self.hidden = hidden
        self.dropout = dropout
        self.normalize_queries_and_keys = normalize_queries_and_keys
        self.rotate_class_slot = rotate_class_slot
        self.factorization = Factorization(bits)
        sizes = self.factorization.sizes
        options = (width, num_heads, hidden, dropout, normalize_queries_and_keys)
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.embedding_dropout = nn.Dropout(dropout)
        self.spatial_blocks = nn.ModuleList(TransformerBlock(*options) for _ in range(num_spatial_blocks))
        self.factorized_blocks = nn.ModuleList(TransformerBlock(*options) for _ in range(num_factorized_blocks))
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)
        self._rotary: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.apply(initialize)
        for head in self.heads:
            nn.init.zeros_(head.weight)

    @property
    def num_tokens(self) -> int:
        """N, tokens of an image."""
        return math.prod(self.grid)

    @property
    def null_class(self) -> int:
        """The class of unconditional generation."""
        return self.num_classes

    def forward(self, sub_tokens: Tensor, labels: Tensor) -> list[Tensor]:
        """Logits of every sub-token, each given what comes before it.

        Args:
            sub_tokens: int64 [B, N, G]; the last token is not read, except its sub-tokens but the last.
            labels: int64 [B] in [0, num_classes], with num_classes for the null class.

        Returns:
            for each group, logits [B, N, 2^bits] of the tokens at all positions.

        Raises:
            ValueError: for other shapes, or labels outside the class table.
        """
        self._check(sub_tokens, labels)
        return self.sub_token_logits(self.context(self.embed(sub_tokens, labels)), sub_tokens)

    def embed(self, sub_tokens: Tensor, labels: Tensor) -> Tensor:
        """The input sequence [B, N, D]: class, then the tokens but the last."""
        inputs = [self.class_embedding(labels)[:, None], self.embed_tokens(sub_tokens[:, :-1])]
        return self.embedding_dropout(torch.cat(inputs, dim=1))

    def embed_tokens(self, sub_tokens: Tensor) -> Tensor:
        """Sum of the sub-tokens' embeddings: [B, n, G] -> [B, n, D]."""
        parts = [embedding(sub_tokens[..., group]) for group, embedding in enumerate(self.embeddings)]
        return torch.stack(parts).sum(dim=0) if len(parts) > 2 else sum(parts[1:], parts[0])

    def context(self, features: Tensor, cache: KeyValueCache | None = None, start: int = 0) -> Tensor:
        """What the spatial blocks make of the inputs [B, n, D] of positions start ... start + n - 1."""
        rotary = self.rotary(features)[start : start + features.shape[1]]
        for layer, block in enumerate(self.spatial_blocks):
            features = block(features, rotary, True, cache, layer, start)
        return features

    def sub_token_logits(self, context: Tensor, sub_tokens: Tensor) -> list[Tensor]:
        """Logits of all groups in one pass: context [B, N, D] and the true sub-tokens [B, N, G] (teacher forcing)."""
        slots = [context, *(e(sub_tokens[..., g]) for g, e in enumerate(self.embeddings[:-1]))]
        features = torch.stack(slots, dim=2).flatten(0, 1)  # [B N, G, D]
        for block in self.factorized_blocks:
            features = block(features, self.rotary(features)[: len(slots)], True)
        features = self.norm(features).unflatten(0, context.shape[:2])
        return [head(features[:, :, group]) for group, head in enumerate(self.heads)]

    def next_logits(self, slot: Tensor, group: int, cache: KeyValueCache) -> Tensor:
        """Logits [B, 2^bits] of one sub-token, from its slot [B, D] and the cache of the slots before it."""
        features = slot[:, None]
        for layer, block in enumerate(self.factorized_blocks):
            features = block(features, self.rotary(slot)[group : group + 1], True, cache, layer, group)
        return self.heads[group](self.norm(features[:, 0]))

    def make_caches(self, batch_size: int) -> tuple[KeyValueCache, KeyValueCache]:
        """Caches of the spatial and the factorized blocks for generation, in the weights' dtype and on their device."""
        weight = self.heads[0].weight
        sizes = ((self.num_spatial_blocks, self.num_tokens), (self.num_factorized_blocks, len(self.bits)))
        head_width = self.width // self.num_heads
        return tuple(
            KeyValueCache(layers, batch_size, self.num_heads, positions, head_width, weight.dtype, weight.device)
            for layers, positions in sizes
        )

    def rotary(self, features: Tensor) -> Tensor:
        """The rotary table [positions, head_width / 2, 2]: row 0 is the class slot, row t the cell of token t - 1.

        No buffer: a model in half precision keeps a table in float32.
        """
        dtype = torch.promote_types(features.dtype, torch.float32)
        key = (features.device, dtype)
        if key not in self._rotary:
            table = axial_rotary_table(self.grid, self.width // self.num_heads)
            first = torch.zeros_like(table[:1])
            if self.rotate_class_slot:
                first[..., 0] = 1.0
            rows = max(self.num_tokens, len(self.bits))
            self._rotary[key] = torch.cat([first, table])[:rows].to(features.device, dtype)
        return self._rotary[key]

    def _check(self, sub_tokens: Tensor, labels: Tensor) -> None:
        expected = (len(labels), self.num_tokens, len(self.bits))
        if tuple(sub_tokens.shape) != expected:
            raise ValueError(f"expected sub-tokens {expected} of grid {self.grid}, got {tuple(sub_tokens.shape)}")
        check_labels(labels, self.num_classes)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels outside [0, num_classes]; num_classes itself is the null class. Checked on the CPU alone.

    Raises:
        ValueError: naming the label and the range.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"expected integer labels [B], got {labels.dtype} {tuple(labels.shape)}")
    if labels.device.type == "cpu" and len(labels):
        for label in (int(labels.min()), int(labels.max())):
            if not 0 <= label <= num_classes:
                raise ValueError(f"class {label} is outside the table: expected 0 to {num_classes - 1}")


def initialize(module: nn.Module) -> None:
    """N(0, 0.02) for linear layers and embeddings, zero biases."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
