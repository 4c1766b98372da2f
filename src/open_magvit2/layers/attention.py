"""Multi-head self-attention with rotary positions, and the cache of keys and values for generation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common import huge_pages
from open_magvit2.layers.dropout import Dropout
from open_magvit2.layers.rotary import rotate


class KeyValueCache:
    """Keys and values of every layer for a fixed number of positions, allocated once.

    Args:
        num_layers, batch_size, num_heads, num_positions, head_width: sizes.
        dtype, device: of the keys and values.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        num_positions: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, 2, batch_size, num_heads, num_positions, head_width)
        self.values = huge_pages.empty(shape, dtype, device).zero_()

    def update(self, layer: int, start: int | Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [B, heads, n, head_width] from position `start` on; return all up to their end.

        With a tensor int64 [1] as start, n is 1 and all positions are returned: `mask` says which of them are filled.
        """
        keys, values = self.values[layer]
        if isinstance(start, Tensor):
            keys.index_copy_(2, start, key.to(keys.dtype))
            values.index_copy_(2, start, value.to(values.dtype))
            return keys, values
        end = start + key.shape[2]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        return keys[:, :, :end], values[:, :, :end]

    def mask(self, start: int | Tensor) -> Tensor | None:
        """Which of the returned positions a query at `start` sees: bool [1, positions]; None is all of them."""
        if not isinstance(start, Tensor):
            return None
        return torch.arange(self.values.shape[4], device=start.device)[None] <= start


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(head width)) v in heads (Vaswani et al. 2017), by default without biases.

    Args:
        width: D, channels in and out.
        num_heads: must divide D, unless `head_width` is given.
        dropout: after the output projection.
        normalize_queries_and_keys: RMSNorm of every head's queries and keys (ViT-22B, arXiv 2302.05442).
        qkv_bias, out_bias: of the projections before and after the heads.
        head_width: channels of a head; None for D / num_heads.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        normalize_queries_and_keys: bool = False,
        qkv_bias: bool = False,
        out_bias: bool = False,
        head_width: int | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or (head_width is None and width % num_heads):
            raise ValueError(f"{num_heads} heads do not divide a width of {width}")
        self.num_heads = num_heads
        self.head_width = width // num_heads if head_width is None else head_width
        self.qkv = nn.Linear(width, 3 * num_heads * self.head_width, bias=qkv_bias)
        self.out = nn.Linear(num_heads * self.head_width, width, bias=out_bias)
        self.dropout = Dropout(dropout)
        norms = (nn.RMSNorm(self.head_width, eps=1e-5) if normalize_queries_and_keys else nn.Identity() for _ in "qk")
        self.query_norm, self.key_norm = norms

    def forward(self, features: Tensor, *arguments: Any) -> Tensor:
        """Attend over positions [B, N, D] -> [B, N, D]; arguments of `attend`."""
        return self.dropout(self.out(self.attend(self.qkv(features), *arguments)))

    def attend(
        self,
        qkv: Tensor,
        rotary: Tensor | None = None,
        is_causal: bool = False,
        cache: KeyValueCache | None = None,
        layer: int = 0,
        start: int | Tensor = 0,
    ) -> Tensor:
        """The attention output of all heads, [B, N, heads head_width], before the output projection.

        Args:
            qkv: queries, keys and values of all heads, float [B, N, 3 heads head_width].
            rotary: table of `axial_rotary_table` for these positions; None for no rotation.
            is_causal: a position sees itself and earlier ones.
            cache: holds the positions before `start`, which these then see as well; they are added to it. With a cache
                one position is passed at a time, or the first ones together.
            layer: of the cache.
            start: number of positions in the cache; as a tensor int64 [1], the work has one shape whatever the number.
        """
        batch, number, _ = qkv.shape
        qkv = qkv.view(batch, number, 3, self.num_heads, self.head_width).permute(2, 0, 3, 1, 4)
        query_key, value = qkv.split((2, 1))
        if not all(isinstance(norm, nn.Identity) for norm in (self.query_norm, self.key_norm)):
            query_key = torch.stack([self.query_norm(qkv[0]), self.key_norm(qkv[1])])
        if rotary is not None:
            query_key = rotate(query_key, rotary)
            value = value.contiguous()  # else the backward pass keeps the old queries and keys beside it
        (query, key), value = query_key.unbind(0), value[0]
        mask = None
        if cache is not None:
            (key, value), mask = cache.update(layer, start, key, value), cache.mask(start)
        if number == 1:  # no condition inside the call: a compiler may not know the number
            is_causal = False
        attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal)
        return attended.transpose(1, 2).reshape(batch, number, -1)
