"""The autoregressive generator: spatial blocks over positions, factorized blocks inside each position.

Source: Open-MAGVIT2 (Luo et al., arXiv 2409.04410, section 3.2). Position t of the input is the token at t - 1, the sum
of its sub-tokens' embeddings; position 0 is the class. The spatial blocks turn it into a context. The factorized blocks
predict the sub-tokens of token t one after the other: slot 0 is the context, slot g the embedding of sub-token g - 1.

In another order than raster (RAR, Yu et al., arXiv 2411.00776) an input also says which position it is to predict.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.common.precision import autocast_dtype
from open_magvit2.generators.backbone import TokenTransformer, check_labels, initialize
from open_magvit2.generators.sampling import Sampling, make_settings, sample
from open_magvit2.layers.attention import KeyValueCache


class AutoregressiveGenerator(TokenTransformer):
    """Class-conditional next-token prediction over a grid of factorized tokens.

    The defaults are the published B model. L has (36, 3) blocks of width 1280 with 20 heads, XL has (48, 4) of width
    1536 with 24 heads.

    Args:
        bits, grid, num_classes, width, num_heads, hidden, dropout: see `TokenTransformer`.
        num_spatial_blocks, num_factorized_blocks: numbers of blocks.
        normalize_queries_and_keys: RMSNorm in every attention; off in the published models.
        rotate_class_slot: give the class slot, and slot 0 inside a position, the identity rotation. The published
            models multiply their queries and keys by zero instead.
        most_significant_first: see `TokenTransformer`; which bits are predicted first. Off in the published models.
        target_positions: learn an embedding of the position to be predicted, added to the inputs (RAR, section 3.2);
            needed to train in random orders, off in the published models.

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
        target_positions: bool = False,
        most_significant_first: bool = False,
    ) -> None:
        options = (width, num_heads, hidden, dropout, normalize_queries_and_keys, rotate_class_slot)
        super().__init__(bits, grid, num_classes, *options, most_significant_first=most_significant_first)
        integer(1, num_spatial_blocks=num_spatial_blocks)
        integer(0, num_factorized_blocks=num_factorized_blocks)
        self.num_spatial_blocks = num_spatial_blocks
        self.num_factorized_blocks = num_factorized_blocks
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in self.factorization.sizes)
        self.spatial_blocks = self.make_blocks(num_spatial_blocks)
        self.factorized_blocks = self.make_blocks(num_factorized_blocks)
        self.target_positions = target_positions
        self.target_embedding = nn.Embedding(self.num_tokens, width) if target_positions else None
        self.apply(initialize)
        for head in self.heads:
            nn.init.zeros_(head.weight)

    def generate(self, labels: Tensor, seeds: Sequence[int], settings: Sampling | None = None) -> Tensor:
        """See `protocols.Generator`, and `sampling.sample`."""
        return sample(self, labels, seeds, settings)

    def make_settings(self, **options: Any) -> Sampling:
        """See `protocols.Generator`, and `sampling.make_settings` for the options."""
        return make_settings(len(self.bits), **options)

    def forward(self, sub_tokens: Tensor, labels: Tensor, order: Tensor | None = None) -> list[Tensor]:
        """Logits of every sub-token, each given what comes before it.

        Args:
            sub_tokens: int64 [B, N, G]; the last token is not read, except its sub-tokens but the last.
            labels: int64 [B] in [0, num_classes], with num_classes for the null class.
            order: int64 [B, N], a permutation of the positions for each image: the order in which they are predicted;
                None for raster.

        Returns:
            for each group, logits [B, N, 2^bits] of the tokens at all positions, in raster order whatever `order`.

        Raises:
            ValueError: for other shapes, labels outside the class table, or an order without `target_positions`.
        """
        self._check(sub_tokens, labels)
        if order is None:
            return self.sub_token_logits(self.context(self.embed(sub_tokens, labels)), sub_tokens)
        if self.target_embedding is None:
            raise ValueError("an order other than raster needs a generator with target_positions: true")
        ordered = sub_tokens.gather(1, order[..., None].expand_as(sub_tokens))
        logits = self.sub_token_logits(self.context(self.embed(ordered, labels), order=order), ordered)
        back = order.argsort(dim=1)[..., None]
        return [values.gather(1, back.expand_as(values)) for values in logits]

    def embed(self, sub_tokens: Tensor, labels: Tensor) -> Tensor:
        """The input sequence [B, N, D]: class, then the tokens but the last."""
        inputs = [self.class_embedding(labels)[:, None], self.embed_tokens(sub_tokens[:, :-1])]
        return self.input_dropout(torch.cat(inputs, dim=1))

    def embed_tokens(self, sub_tokens: Tensor) -> Tensor:
        """Sum of the sub-tokens' embeddings: [B, n, G] -> [B, n, D]."""
        parts = [embedding(sub_tokens[..., group]) for group, embedding in enumerate(self.embeddings)]
        return torch.stack(parts).sum(dim=0) if len(parts) > 2 else sum(parts[1:], parts[0])

    def context(
        self,
        features: Tensor,
        cache: KeyValueCache | None = None,
        start: int | Tensor = 0,
        order: Tensor | None = None,
    ) -> Tensor:
        """Output of the spatial blocks for inputs [B, n, D] of positions start ... start + n - 1.

        A tensor int64 [1] as start means one position, and work of one shape whatever the position. With an order
        int64 [B, N], input t holds the token at position order[t - 1] and predicts that at order[t].
        """
        table = self.rotary(features)
        here = start if isinstance(start, Tensor) else slice(start, start + features.shape[1])
        rows = here if order is None else nn.functional.pad(order[:, :-1] + 1, (1, 0))  # row 0 is the class slot
        rotary = table[rows] if order is None else table[rows][:, None]  # [B, 1, N, head_width / 2, 2]
        if self.target_embedding is not None:
            targets = self.target_embedding.weight[here] if order is None else self.target_embedding(order)
            features = features + targets
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
        """Caches of the spatial and the factorized blocks for generation, on the weights' device.

        Their dtype is the weights', or autocast's where that is on: the keys and values are never cast again.
        """
        weight = self.heads[0].weight
        dtype = autocast_dtype(weight)
        sizes = ((self.num_spatial_blocks, self.num_tokens), (self.num_factorized_blocks, len(self.bits)))
        head_width = self.width // self.num_heads
        return tuple(
            KeyValueCache(layers, batch_size, self.num_heads, positions, head_width, dtype, weight.device)
            for layers, positions in sizes
        )

    def _check(self, sub_tokens: Tensor, labels: Tensor) -> None:
        expected = (len(labels), self.num_tokens, len(self.bits))
        if tuple(sub_tokens.shape) != expected:
            raise ValueError(f"expected sub-tokens {expected} of grid {self.grid}, got {tuple(sub_tokens.shape)}")
        check_labels(labels, self.num_classes)
