"""Sampling as the reference does it, on the weights of one of our generators: what `benchmarks.sampling` compares with.

Written from a description of its loop: keys and values in caches of more slots than the sequence has, attention over
all of them under a mask, a copy of each layer's cache at every step, factorized caches of that length made anew at
every position, tokens appended by concatenation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.layers.transformer import EPS, TransformerBlock

_SLOTS_MULTIPLE = 8


class PlainSampler:
    """The loop, for generators without query/key norm.

    Args:
        generator: whose weights it reads.
        guidance: the same scale for all sub-tokens; 1 is none.
        greedy: the most probable value instead of a draw from PyTorch's global generator.
    """

    def __init__(self, generator: AutoregressiveGenerator, guidance: float, greedy: bool = False) -> None:
        self.generator, self.guidance, self.greedy = generator, guidance, greedy
        slots = -(-(generator.num_tokens + 1) // _SLOTS_MULTIPLE) * _SLOTS_MULTIPLE
        self.mask = torch.ones(slots, slots, dtype=torch.bool, device=generator.device).tril()
        self.caches: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def sample(self, labels: Tensor, num_tokens: int) -> Tensor:
        """Indices int64 [B, num_tokens] of labels int64 [B]."""
        generator = self.generator
        guided = self.guidance != 1.0
        both = torch.cat([labels, torch.full_like(labels, generator.null_class)]) if guided else labels
        self.caches = self._make_caches(len(both), generator.num_spatial_blocks)
        features = generator.class_embedding(both)[:, None]
        tokens = torch.empty(len(labels), 0, len(generator.bits), dtype=torch.int64, device=labels.device)
        for position in range(num_tokens):
            for block, cache in zip(generator.spatial_blocks, self.caches, strict=True):
                features = self._block(block, features, position, cache)
            factorized = self._make_caches(len(both), generator.num_factorized_blocks)
            slot, chosen = features, []
            for group, head in enumerate(generator.heads):
                for block, cache in zip(generator.factorized_blocks, factorized, strict=True):
                    slot = self._block(block, slot, group, cache)
                value = self._choose(F.linear(_norm(slot, generator.norm.weight), head.weight)[:, -1])
                chosen.append(value)
                slot = generator.embeddings[group](torch.cat([value, value]) if guided else value)[:, None]
            tokens = torch.cat([tokens, torch.stack(chosen, dim=-1)[:, None]], dim=1)
            last = tokens[:, -1:]
            features = generator.embed_tokens(torch.cat([last, last]) if guided else last)
        return generator.factorization.join(tokens)

    def _make_caches(self, batch: int, layers: int) -> list[tuple[Tensor, Tensor]]:
        generator = self.generator
        weight = generator.heads[0].weight
        shape = (batch, generator.num_heads, len(self.mask), generator.width // generator.num_heads)
        return [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in range(layers)]

    def _choose(self, logits: Tensor) -> Tensor:
        if self.guidance != 1.0:
            conditional, null = logits.split(len(logits) // 2)
            logits = null + self.guidance * (conditional - null)
        if self.greedy:
            return logits.argmax(dim=-1)
        return torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)[:, 0]

    def _block(self, block: TransformerBlock, features: Tensor, position: int, cache: tuple[Tensor, Tensor]) -> Tensor:
        attention, feed_forward = block.attention, block.feed_forward
        hidden = _norm(features, block.attention_norm.weight)
        batch, number, width = hidden.shape
        query, key, value = F.linear(hidden, attention.qkv.weight).split(width, dim=-1)
        heads = (batch, number, attention.num_heads, attention.head_width)
        table = self.generator.rotary(hidden)[position : position + 1]
        query, key = (_rotate(part.view(heads), table).transpose(1, 2) for part in (query, key))
        keys, values = cache
        keys[:, :, position : position + 1] = key
        values[:, :, position : position + 1] = value.view(heads).transpose(1, 2)
        # one key/value head a query head: copies all the same
        keys, values = keys.repeat_interleave(1, dim=1), values.repeat_interleave(1, dim=1)
        mask = self.mask[None, None, position : position + 1]
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        attended = attended.transpose(1, 2).contiguous().view(batch, number, width)
        features = features + F.linear(attended, attention.out.weight)
        hidden = _norm(features, block.feed_forward_norm.weight)
        gate, up = F.linear(hidden, feed_forward.gate.weight), F.linear(hidden, feed_forward.up.weight)
        return features + F.linear(F.silu(gate) * up, feed_forward.down.weight)


def _norm(features: Tensor, weight: Tensor) -> Tensor:
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return (wide * torch.rsqrt((wide * wide).mean(dim=-1, keepdim=True) + EPS)).to(features.dtype) * weight


def _rotate(features: Tensor, table: Tensor) -> Tensor:
    """[B, 1, heads, head_width] by the table [1, head_width / 2, 2] of one position."""
    wide = features.to(table.dtype)
    pairs, angles = wide.reshape(*features.shape[:-1], -1, 2), table.view(1, 1, 1, -1, 2)
    parts = [
        pairs[..., 0] * angles[..., 0] - pairs[..., 1] * angles[..., 1],
        pairs[..., 1] * angles[..., 0] + pairs[..., 0] * angles[..., 1],
    ]
    return torch.stack(parts, dim=-1).flatten(3).to(features.dtype)
