"""The masked generator: all positions at once, from bits or embeddings in which masked groups are missing.

Sources: MaskGIT (Chang et al., arXiv 2202.04200), MAGVIT-v2 (arXiv 2310.05737), and MaskBit (Weber et al., arXiv
2409.16211), whose input of bits and masking of single groups this follows. The blocks are those of the autoregressive
generator, without the causal mask.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import at_least, within
from open_magvit2.generators.autoregressive import check_labels, initialize
from open_magvit2.generators.factorization import Factorization
from open_magvit2.layers.rotary import axial_rotary_table
from open_magvit2.layers.transformer import EPS, TransformerBlock

Inputs = Literal["bits", "embeddings"]


class MaskedGenerator(nn.Module):
    """Class-conditional prediction of masked sub-tokens from the others.

    Args:
        bits: of the sub-tokens (see `Factorization`); (9, 9) for 18 bits in MAGVIT-v2 and MaskBit.
        grid: (rows, columns) of the tokens, or any number of axes.
        num_classes: the class table has one row more, `null_class`, for classifier-free guidance.
        width, num_heads, num_blocks, hidden: of the transformer; the defaults have 307 M parameters.
        dropout: on the inputs, after attention and after SwiGLU.
        inputs: "bits": a sub-token enters as its bits in {-1, +1}, 0 where it is masked, through one linear layer;
            "embeddings": by a table for each group, with a row for the mask, summed.
        normalize_queries_and_keys: RMSNorm in every attention.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        bits: Sequence[int] = (9, 9),
        grid: Sequence[int] = (16, 16),
        num_classes: int = 1000,
        width: int = 1024,
        num_heads: int = 16,
        num_blocks: int = 24,
        hidden: int | None = None,
        dropout: float = 0.1,
        inputs: Inputs = "bits",
        normalize_queries_and_keys: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, grid=grid, num_classes=num_classes, width=width, num_blocks=num_blocks)
        within(0, 1, dropout=dropout)
        if inputs not in ("bits", "embeddings"):
            raise ValueError(f"inputs must be 'bits' or 'embeddings', got {inputs!r}")
        self.bits = tuple(bits)
        self.grid = tuple(grid)
        self.num_classes = num_classes
        self.width = width
        self.num_heads = num_heads
        self.num_blocks = num_blocks
        self.hidden = hidden
        self.dropout = dropout
        self.inputs = inputs
        self.normalize_queries_and_keys = normalize_queries_and_keys
        self.factorization = Factorization(bits)
        sizes = self.factorization.sizes
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        if inputs == "bits":
            self.bit_projection = nn.Linear(sum(self.bits), width)
        else:
            self.embeddings = nn.ModuleList(nn.Embedding(size + 1, width) for size in sizes)  # the last row is the mask
        self.input_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, hidden, dropout, normalize_queries_and_keys) for _ in range(num_blocks)
        )
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)
        self._rotary: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.apply(initialize)

    @property
    def num_tokens(self) -> int:
        """N, tokens of an image."""
        return math.prod(self.grid)

    @property
    def null_class(self) -> int:
        """The class of unconditional generation."""
        return self.num_classes

    def forward(self, sub_tokens: Tensor, is_masked: Tensor, labels: Tensor) -> list[Tensor]:
        """Logits of every sub-token, masked or not.

        Args:
            sub_tokens: int64 [B, N, G]; what is masked is not read.
            is_masked: bool [B, N, G].
            labels: int64 [B] in [0, num_classes], with num_classes for the null class.

        Returns:
            for each group, logits [B, N, 2^bits].

        Raises:
            ValueError: for other shapes, or labels outside the class table.
        """
        expected = (len(labels), self.num_tokens, len(self.bits))
        if not tuple(sub_tokens.shape) == tuple(is_masked.shape) == expected:
            raise ValueError(
                f"expected sub-tokens and mask {expected} of grid {self.grid}, got {tuple(sub_tokens.shape)} and "
                f"{tuple(is_masked.shape)}"
            )
        check_labels(labels, self.num_classes)
        features = torch.cat([self.class_embedding(labels)[:, None], self._embed(sub_tokens, is_masked)], dim=1)
        features = self.input_dropout(features)
        for block in self.blocks:
            features = block(features, self.rotary(features))
        features = self.norm(features[:, 1:])
        return [head(features) for head in self.heads]

    def rotary(self, features: Tensor) -> Tensor:
        """The rotary table [1 + N, head_width / 2, 2]: the class slot is not rotated. No buffer, kept in float32."""
        key = (features.device, torch.promote_types(features.dtype, torch.float32))
        if key not in self._rotary:
            table = axial_rotary_table(self.grid, self.width // self.num_heads)
            identity = torch.zeros_like(table[:1])
            identity[..., 0] = 1.0
            self._rotary[key] = torch.cat([identity, table]).to(*key)
        return self._rotary[key]

    def _embed(self, sub_tokens: Tensor, is_masked: Tensor) -> Tensor:
        """[B, N, G] -> [B, N, D]."""
        if self.inputs == "embeddings":
            masked = [values.masked_fill(m, size) for values, m, size in self._groups(sub_tokens, is_masked)]
            parts = [embedding(values) for embedding, values in zip(self.embeddings, masked, strict=True)]
            return sum(parts[1:], parts[0])
        signs = []
        for (values, m, _), number in zip(self._groups(sub_tokens, is_masked), self.bits, strict=True):
            ones = (values[..., None] >> torch.arange(number, device=values.device)) & 1
            signs.append((2 * ones - 1).masked_fill(m[..., None], 0))
        return self.bit_projection(torch.cat(signs, dim=-1).to(self.bit_projection.weight.dtype))

    def _groups(self, sub_tokens: Tensor, is_masked: Tensor) -> list[tuple[Tensor, Tensor, int]]:
        return list(zip(sub_tokens.unbind(-1), is_masked.unbind(-1), self.factorization.sizes, strict=True))
