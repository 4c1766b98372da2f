"""The pre-norm transformer block that generators and transformer tokenizers share: RMSNorm, attention, SwiGLU."""

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.layers.attention import KeyValueCache, SelfAttention

EPS = 1e-5


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) without biases (Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.down(F.silu(self.gate(features)) * self.up(features)))


def swiglu_hidden(width: int, multiple: int = 256) -> int:
    """8/3 of the width, rounded up to a multiple: the parameters of an MLP of 4 times the width."""
    return -(-(8 * width // 3) // multiple) * multiple


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); [B, N, D] -> [B, N, D].

    Args:
        width: D.
        num_heads: of the attention.
        hidden: of the SwiGLU; None for `swiglu_hidden(width)`.
        dropout: after both branches.
        normalize_queries_and_keys: see `SelfAttention`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int | None = None,
        dropout: float = 0.0,
        normalize_queries_and_keys: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=EPS)
        self.attention = SelfAttention(width, num_heads, dropout, normalize_queries_and_keys)
        self.feed_forward_norm = nn.RMSNorm(width, eps=EPS)
        self.feed_forward = SwiGLU(width, swiglu_hidden(width) if hidden is None else hidden, dropout)

    def forward(
        self,
        features: Tensor,
        rotary: Tensor | None = None,
        is_causal: bool = False,
        cache: KeyValueCache | None = None,
        layer: int = 0,
        start: int | Tensor = 0,
    ) -> Tensor:
        """Arguments of `SelfAttention.forward`."""
        features = features + self.attention(self.attention_norm(features), rotary, is_causal, cache, layer, start)
        return features + self.feed_forward(self.feed_forward_norm(features))
