"""The one-token step of the autoregressive generator on a CPU, for a handful of rows, in tensors allocated once.

A step multiplies a few rows by every weight of the model: its time is that of reading the weights, and of asking for
thousands of small operations. So weights are copied into blocks of 32 output channels, in huge pages, which products
with few rows read fastest; gate and up of SwiGLU are one matrix; the weights of RMSNorm are multiplied into the next
matrices; and all operations write where the next one reads. Features stay in blocks: [D / block, R, block].

Slot 0 of any cache sees itself alone. Its attention is its value, without queries or scores.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common import huge_pages
from open_magvit2.layers.transformer import EPS, TransformerBlock

if TYPE_CHECKING:
    from open_magvit2.generators.autoregressive import AutoregressiveGenerator
    from open_magvit2.layers.attention import KeyValueCache

_BLOCK = 32


class _Weights(NamedTuple):
    """Of a transformer block, packed; `head_scales` are the weights of the RMSNorm of queries and keys, if any."""

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor
    head_scales: Tensor | None


class PackedStep:
    """What `sampling.next_token` asks of a generator, computed from packed copies of its weights.

    The numbers are the generator's up to rounding. It holds the weights of blocks and heads once more.

    Args:
        generator: one that `serves` accepts; its weights must not change while the step is in use.
        num_rows: R, rows of every step.
    """

    def __init__(self, generator: AutoregressiveGenerator, num_rows: int) -> None:
        self.embeddings, self.embed_tokens = generator.embeddings, generator.embed_tokens
        self.targets = None if generator.target_embedding is None else generator.target_embedding.weight
        width, rows, weight = generator.width, num_rows, generator.heads[0].weight
        self.width, self.num_rows, self.num_heads = width, rows, generator.num_heads
        head_width = width // self.num_heads
        hidden = generator.spatial_blocks[0].feed_forward.down.in_features
        self.block = block = math.gcd(_BLOCK, head_width)
        layers = [*generator.spatial_blocks, *generator.factorized_blocks, *generator.heads]
        number = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim == 2)
        memory = _Memory(huge_pages.empty((number,), weight.dtype))
        self.spatial = [self._pack(part, memory) for part in generator.spatial_blocks]
        self.factorized = [self._pack(part, memory) for part in generator.factorized_blocks]
        self.heads = [memory.blocked(head.weight * generator.norm.weight) for head in generator.heads]

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=weight.dtype, device=weight.device)

        pieces = head_width // block
        table = torch.view_as_complex(generator.rotary(weight).to(weight.dtype))  # [1 + N, head_width / 2]
        self.rotary = table.view(len(table), pieces, 1, block // 2)
        self.first_turns = generator.rotate_class_slot
        self.features = empty(width // block, rows, block)
        self.normalized, self.normalized_blocks = _rows_and_blocks(empty(rows, width), block)
        self.context_rows, self.context_blocks = _rows_and_blocks(empty(rows, width), block)
        self.norms = empty(rows, 1)
        self.qkv = empty(3 * width // block, rows, block)
        self.query_key = self.qkv[: 2 * width // block].view(2, self.num_heads, pieces, rows, block)
        self.turned = torch.view_as_complex(self.query_key.view(2 * self.num_heads, pieces, rows, block // 2, 2))
        in_heads = self.qkv.view(3, self.num_heads, pieces, rows, block).permute(0, 3, 1, 2, 4)
        self.new_query, self.new_keys_values = in_heads[0], in_heads[1:]
        self.query = empty(rows, self.num_heads, 1, head_width)
        self.attended = empty(rows, width)
        hidden_block = math.gcd(_BLOCK, hidden)
        self.gate_up = empty(2 * hidden // hidden_block, rows, hidden_block)
        self.inner, self.inner_blocks = _rows_and_blocks(empty(rows, hidden), hidden_block)

    @staticmethod
    def serves(generator: AutoregressiveGenerator) -> bool:
        """Whether its numbers are the generator's: in eval mode, on a CPU, in float32 or float64 without autocast."""
        weight = generator.heads[0].weight
        is_exact = weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        return weight.device.type == "cpu" and is_exact and not generator.training

    def context(self, features: Tensor, cache: KeyValueCache, position: int) -> Tensor:
        """See `AutoregressiveGenerator.context`: [R, 1, D] of one position."""
        self._begin(features[:, 0] if self.targets is None else features[:, 0] + self.targets[position])
        for layer, weights in enumerate(self.spatial):
            self._transform(weights, cache.values[layer], position)
        self.context_blocks.copy_(self.features)
        return self.context_rows[:, None]

    def next_logits(self, slot: Tensor, group: int, cache: KeyValueCache) -> Tensor:
        """See `AutoregressiveGenerator.next_logits`."""
        self._begin(slot)
        for layer, weights in enumerate(self.factorized):
            self._transform(weights, cache.values[layer], group)
        self._normalize()
        logits = torch.bmm(self.normalized.expand(len(self.heads[group]), -1, -1), self.heads[group])
        return logits.transpose(0, 1).reshape(self.num_rows, -1)

    def _pack(self, part: TransformerBlock, memory: _Memory) -> _Weights:
        attention, feed_forward = part.attention, part.feed_forward
        scales = None
        if isinstance(attention.query_norm, nn.RMSNorm):
            scales = torch.stack([attention.query_norm.weight, attention.key_norm.weight])
            scales = scales.view(2, 1, -1, 1, self.block)
        gate_up = torch.cat([feed_forward.gate.weight, feed_forward.up.weight]) * part.feed_forward_norm.weight
        return _Weights(
            memory.blocked(attention.qkv.weight * part.attention_norm.weight, self.block),
            memory.blocked(attention.out.weight, self.block),
            memory.blocked(gate_up, math.gcd(_BLOCK, len(feed_forward.gate.weight))),
            memory.blocked(feed_forward.down.weight, self.block),
            scales,
        )

    def _begin(self, rows: Tensor) -> None:
        self.features.copy_(rows.view(self.num_rows, -1, self.block).transpose(0, 1))

    def _transform(self, weights: _Weights, cache: Tensor, position: int) -> None:
        """One transformer block at a position of its cache [2, R, heads, positions, head_width]."""
        self._normalize()
        attended = self._attend(weights, cache, position)
        self._add_product(attended, weights.out)
        self._normalize()
        _multiply(self.normalized, weights.gate_up, self.gate_up)
        gate, up = self.gate_up.chunk(2)
        torch.mul(F.silu(gate, inplace=True), up, out=self.inner_blocks)
        self._add_product(self.inner, weights.down)

    def _normalize(self) -> None:
        """RMSNorm without its weights, from blocks to rows."""
        self.normalized_blocks.copy_(self.features)
        torch.linalg.vector_norm(self.normalized, dim=1, keepdim=True, out=self.norms)
        self.normalized.mul_(self.norms.square_().div_(self.width).add_(EPS).rsqrt_())

    def _attend(self, weights: _Weights, cache: Tensor, position: int) -> Tensor:
        """What a position attends to, [R, D]; its keys and values are added to the cache."""
        stored = cache[:, :, :, position].view(2, self.num_rows, self.num_heads, -1, self.block)
        if position == 0 and not self.first_turns:  # keys are zero
            values = len(self.qkv) // 3
            _multiply(self.normalized, weights.qkv[2 * values :], self.qkv[2 * values :])
            stored[0].zero_()
            stored[1].copy_(self.new_keys_values[1])
            return self._copy_attended(cache[1, :, :, 0])
        _multiply(self.normalized, weights.qkv, self.qkv)
        if weights.head_scales is not None:
            squares = torch.linalg.vector_norm(self.query_key, dim=(2, 4), keepdim=True).square_()
            self.query_key.mul_(squares.div_(self.width // self.num_heads).add_(EPS).rsqrt_()).mul_(weights.head_scales)
        self.turned.mul_(self.rotary[position])
        stored.copy_(self.new_keys_values)
        if position == 0:
            return self._copy_attended(cache[1, :, :, 0])
        self.query.view(self.num_rows, self.num_heads, -1, self.block).copy_(self.new_query)
        keys, values = cache[:, :, :, : position + 1]
        return F.scaled_dot_product_attention(self.query, keys, values).reshape(self.num_rows, self.width)

    def _copy_attended(self, values: Tensor) -> Tensor:
        self.attended.view(values.shape).copy_(values)
        return self.attended

    def _add_product(self, rows: Tensor, weight: Tensor) -> None:
        """Add [R, K] times a packed matrix to the features."""
        torch.baddbmm(self.features, rows.expand(len(weight), -1, -1), weight, out=self.features)


class _Memory:
    """Hands out a tensor, piece by piece, to packed matrices."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def blocked(self, weight: Tensor, most: int = _BLOCK) -> Tensor:
        """A matrix [out, in] as [out / block, in, block], with the largest block of a power of 2 up to `most`."""
        packed = weight.detach().unflatten(0, (-1, math.gcd(most, len(weight)))).transpose(1, 2)
        piece, self.values = self.values[: weight.numel()], self.values[weight.numel() :]
        return piece.view(packed.shape).copy_(packed)


def _multiply(rows: Tensor, weight: Tensor, out: Tensor) -> None:
    """Rows [R, in] times a packed matrix, into [out / block, R, block]."""
    torch.bmm(rows.expand(len(weight), -1, -1), weight, out=out)


def _rows_and_blocks(rows: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """[R, D] and the same memory seen as [D / block, R, block]."""
    return rows, rows.unflatten(1, (-1, block)).transpose(0, 1)
