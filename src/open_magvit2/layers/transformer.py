"""The pre-norm transformer block that generators and transformer tokenizers share: RMSNorm, attention, SwiGLU.

With other arguments it is the block of the vision transformer: LayerNorm, biases, an MLP.
"""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.layers.attention import SelfAttention
from open_magvit2.layers.dropout import Dropout

EPS = 1e-5
Norm = Literal["rms", "layer"]
FeedForward = Literal["swiglu", "gelu", "tanh"]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) without biases (Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.down(F.silu(self.gate(features)) * self.up(features)))


def swiglu_hidden(width: int, multiple: int = 256) -> int:
    """8/3 of the width, rounded up to a multiple: the parameters of an MLP of 4 times the width."""
    return -(-(8 * width // 3) // multiple) * multiple


class GEGLU(nn.Module):
    """down(a * gelu(gate)), where one layer makes a and then gate, without biases (the paper of `SwiGLU`)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        values, gate = self.up(features).chunk(2, dim=-1)
        return self.down(values * F.gelu(gate))


class MLP(nn.Module):
    """down(activation(up(x))) with biases (Vaswani et al. 2017), the activation GELU or tanh."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, activation: str = "gelu") -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.activation = {"gelu": nn.GELU, "tanh": nn.Tanh}[activation]()
        self.down = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(features))))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); [B, N, D] -> [B, N, D].

    Args:
        width: D.
        num_heads: of the attention.
        hidden: of the feed-forward part; None for `swiglu_hidden(width)` of a SwiGLU and 4 D of an MLP.
        dropout: after both branches.
        normalize_queries_and_keys, qkv_bias, out_bias, head_width: see `SelfAttention`.
        norm: "rms", or "layer" with scale and bias.
        feed_forward: "swiglu", or the activation of an `MLP`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int | None = None,
        dropout: float = 0.0,
        normalize_queries_and_keys: bool = False,
        norm: Norm = "rms",
        feed_forward: FeedForward = "swiglu",
        qkv_bias: bool = False,
        out_bias: bool = False,
        head_width: int | None = None,
    ) -> None:
        super().__init__()
        make_norm = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}[norm]
        self.attention_norm = make_norm(width, eps=EPS)
        self.attention = SelfAttention(
            width, num_heads, dropout, normalize_queries_and_keys, qkv_bias, out_bias, head_width
        )
        self.feed_forward_norm = make_norm(width, eps=EPS)
        if feed_forward == "swiglu":
            self.feed_forward = SwiGLU(width, swiglu_hidden(width) if hidden is None else hidden, dropout)
        else:
            self.feed_forward = MLP(width, 4 * width if hidden is None else hidden, dropout, feed_forward)

    def forward(self, features: Tensor, *arguments: Any) -> Tensor:
        """[B, N, D] -> [B, N, D]; arguments of `SelfAttention.attend`."""
        features = features + self.attention(self.attention_norm(features), *arguments)
        return features + self.feed_forward(self.feed_forward_norm(features))


def has_own_parts(block: TransformerBlock) -> bool:
    """Whether attention, SwiGLU and their layers are those of this package, and calling them does nothing else.

    A forward pass that is fused does not call the block's submodules, so it would skip hooks, parts of a user, forward
    passes of an instance and compiled parts: this is False for them.
    """
    attention, feed_forward = block.attention, block.feed_forward
    if type(attention) is not SelfAttention or type(feed_forward) is not SwiGLU:
        return False
    linears = (attention.qkv, attention.out, feed_forward.gate, feed_forward.up, feed_forward.down)
    dropouts = (attention.dropout, feed_forward.dropout)
    if not all(type(part) is nn.Linear for part in linears) or not all(type(part) is Dropout for part in dropouts):
        return False
    inside = [part for part in block.modules() if part is not block]
    return not any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._compiled_call_impl
        or "forward" in vars(part)
        for part in inside
    )
