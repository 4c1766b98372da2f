"""Base of the generators: class table, transformer sizes, rotary positions, one head for each sub-token."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import integer, within
from open_magvit2.generators.factorization import Factorization
from open_magvit2.layers.dropout import Dropout
from open_magvit2.layers.rotary import axial_rotary_table
from open_magvit2.layers.transformer import EPS, TransformerBlock


class TokenTransformer(nn.Module):
    """Base of the generators. A subclass lists its arguments, builds its inputs and blocks, and initializes weights.

    Args:
        bits: of the sub-tokens (see `Factorization`).
        grid: (rows, columns) of the tokens, or any number of axes; tokens come in raster order.
        num_classes: the class table has one row more, `null_class`, for classifier-free guidance.
        width: D.
        num_heads: of every attention.
        hidden: of every SwiGLU; None for 8 D / 3 rounded up to a multiple of 256.
        dropout: on the inputs, after attention and after SwiGLU.
        normalize_queries_and_keys: RMSNorm in every attention.
        rotate_class_slot: the class slot gets the identity rotation; else its queries and keys are multiplied by zero.
        has_heads: one linear layer a sub-token to the logits of its values.
        most_significant_first: the first sub-token is made of the index's highest bits (see `Factorization`).

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        bits: Sequence[int],
        grid: Sequence[int],
        num_classes: int,
        width: int,
        num_heads: int,
        hidden: int | None,
        dropout: float,
        normalize_queries_and_keys: bool,
        rotate_class_slot: bool,
        has_heads: bool = True,
        most_significant_first: bool = False,
    ) -> None:
        super().__init__()
        integer(1, grid=grid, num_classes=num_classes, width=width)
        within(0, 1, dropout=dropout)
        self.bits = tuple(bits)
        self.grid = tuple(grid)
        self.num_classes = num_classes
        self.width = width
        self.num_heads = num_heads
        self.hidden = hidden
        self.dropout = dropout
        self.normalize_queries_and_keys = normalize_queries_and_keys
        self.rotate_class_slot = rotate_class_slot
        self.most_significant_first = most_significant_first
        self.factorization = Factorization(bits, most_significant_first)
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        self.input_dropout = Dropout(dropout)
        self.norm = nn.RMSNorm(width, eps=EPS)
        sizes = self.factorization.sizes if has_heads else ()
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in sizes)
        self._rotary: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @property
    def codebook_size(self) -> int:
        """Number of indices, 2^K: the tokenizer's."""
        return self.factorization.codebook_size

    @property
    def num_tokens(self) -> int:
        """N, tokens of an image."""
        return math.prod(self.grid)

    @property
    def null_class(self) -> int:
        """The class of unconditional generation."""
        return self.num_classes

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.class_embedding.weight.device

    def make_blocks(self, number: int) -> nn.ModuleList:
        """Transformer blocks of the model's sizes."""
        options = (self.width, self.num_heads, self.hidden, self.dropout, self.normalize_queries_and_keys)
        return nn.ModuleList(TransformerBlock(*options) for _ in range(number))

    def rotary(self, features: Tensor) -> Tensor:
        """The rotary table [1 + N, head_width / 2, 2]: row 0 is the class slot, row t the cell of token t - 1.

        No buffer: a model in half precision keeps a table in float32.

        Args:
            features: whose device and dtype decide the table's.
        """
        key = (features.device, torch.promote_types(features.dtype, torch.float32))
        if key not in self._rotary:
            with torch.inference_mode(False):  # a table that sampling made must serve training as well
                table = axial_rotary_table(self.grid, self.width // self.num_heads)
                first = torch.zeros_like(table[:1])
                if self.rotate_class_slot:
                    first[..., 0] = 1.0
                self._rotary[key] = torch.cat([first, table]).to(*key)
        return self._rotary[key]


def check_labels(labels: Tensor, num_classes: int, allow_null: bool = True) -> None:
    """Refuse labels outside [0, num_classes), the null class num_classes among them unless it is allowed.

    Only labels on the CPU are looked at: others would make the host wait.

    Raises:
        ValueError: naming the label and the range.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"expected integer labels [B], got {labels.dtype} {tuple(labels.shape)}")
    if labels.device.type == "cpu" and len(labels):
        for label in (int(labels.min()), int(labels.max())):
            if not 0 <= label < num_classes + allow_null:
                raise ValueError(f"class {label} is outside the table: expected 0 to {num_classes - 1}")


def initialize(module: nn.Module) -> None:
    """N(0, 0.02) for linear layers and embeddings, zero biases."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
