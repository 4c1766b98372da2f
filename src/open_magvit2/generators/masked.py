"""The masked generator: all positions at once, from bits or embeddings in which masked groups are missing.

Sources: MaskGIT (Chang et al., arXiv 2202.04200), MAGVIT-v2 (arXiv 2310.05737), and MaskBit (Weber et al., arXiv
2409.16211), whose input of bits and masking of single groups this follows. The blocks are those of the autoregressive
generator, without the causal mask.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import integer
from open_magvit2.generators.backbone import TokenTransformer, check_labels, initialize
from open_magvit2.generators.masking import MaskedSampling, make_settings, sample_masked

Inputs = Literal["bits", "embeddings"]


class MaskedGenerator(TokenTransformer):
    """Class-conditional prediction of masked sub-tokens from the others.

    Args:
        bits: of the sub-tokens (see `Factorization`); (9, 9) for 18 bits in MAGVIT-v2 and MaskBit.
        grid, num_classes, width, num_heads, hidden, dropout, normalize_queries_and_keys, most_significant_first: see
            `TokenTransformer`; the defaults have 307 M parameters.
        num_blocks: number of blocks.
        inputs: "bits": a sub-token enters as its bits in {-1, +1}, 0 where it is masked, through one linear layer;
            "embeddings": by a table for each group, with a row for the mask, summed.

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
        most_significant_first: bool = False,
    ) -> None:
        options = (width, num_heads, hidden, dropout, normalize_queries_and_keys)
        super().__init__(
            bits, grid, num_classes, *options, rotate_class_slot=True, most_significant_first=most_significant_first
        )
        integer(1, num_blocks=num_blocks)
        if inputs not in ("bits", "embeddings"):
            raise ValueError(f"inputs must be 'bits' or 'embeddings', got {inputs!r}")
        self.num_blocks = num_blocks
        self.inputs = inputs
        if inputs == "bits":
            self.bit_projection = nn.Linear(sum(self.bits), width)
        else:  # the last row of each table is the mask
            self.embeddings = nn.ModuleList(nn.Embedding(size + 1, width) for size in self.factorization.sizes)
        self.blocks = self.make_blocks(num_blocks)
        self.apply(initialize)

    def generate(self, labels: Tensor, seeds: Sequence[int], settings: MaskedSampling | None = None) -> Tensor:
        """See `protocols.Generator`, and `masking.sample_masked`."""
        return sample_masked(self, labels, seeds, settings)

    def make_settings(self, **options: Any) -> MaskedSampling:
        """See `protocols.Generator`, and `masking.make_settings` for the options."""
        return make_settings(**options)

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
