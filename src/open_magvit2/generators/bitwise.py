"""The bit-wise generator: next-token prediction with a head that fills in the K bits of a token in a few masked steps.

Source: BAR (Yu et al., "Autoregressive Image Generation with Masked Bit Modeling", arXiv 2602.09024). Neither the input
nor the head has a table over the codes, so that 2^18 codes and far more cost K channels. The layers of the head are our
choice: residual SwiGLUs whose normalisation the context scales and shifts (DiT, arXiv 2212.09748).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from open_magvit2.common.arguments import above, at_least, integer
from open_magvit2.common.precision import at_least_float32
from open_magvit2.generators.backbone import TokenTransformer, check_labels, initialize
from open_magvit2.generators.drawing import FiniteLogits, Streams, divided
from open_magvit2.generators.packing import packed
from open_magvit2.generators.sampling import (
    GuidanceSchedule,
    Sampling,
    check_effects,
    check_options,
    check_requests,
    single_values,
)
from open_magvit2.layers.attention import KeyValueCache
from open_magvit2.layers.transformer import EPS, SwiGLU, swiglu_hidden

RevealOrder = Literal["random", "confidence"]


@dataclass(frozen=True)
class BitwiseSampling:
    """Settings of bit-wise sampling.

    Attributes:
        num_steps: passes of the head a token; K bits are revealed in shares as equal as can be. K of them in random
            order draw exactly from the model; fewer draw bits of one step independently.
        order: which bits are revealed first: random ones, or those of which the model is most certain.
        guidance: s; the logits are u + s (c - u), 1 is none.
        schedule, power: of guidance over positions, see `sampling.Sampling`.
        temperature: divides the logits.
        greedy: take the more probable value of each bit.
    """

    num_steps: int = 4
    order: RevealOrder = "random"
    guidance: float = 1.0
    schedule: GuidanceSchedule = "constant"
    power: float = 2.75
    temperature: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        integer(1, num_steps=self.num_steps)
        at_least(0, guidance=self.guidance)
        above(0, temperature=self.temperature)
        if self.order not in get_args(RevealOrder):
            raise ValueError(f"order must be one of {', '.join(get_args(RevealOrder))}, got {self.order!r}")
        Sampling(schedule=self.schedule, power=self.power, greedy=self.greedy)


class MaskedBitHead(nn.Module):
    """Logits of all bits of a token from its context and from those bits that are known.

    Args:
        num_bits: K.
        context_width: D.
        width: of the head.
        num_layers: residual SwiGLUs.
    """

    def __init__(self, num_bits: int, context_width: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.embed_bits = nn.Linear(num_bits, width)
        self.embed_context = nn.Linear(context_width, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=EPS, elementwise_affine=False) for _ in range(num_layers))
        self.modulations = nn.ModuleList(nn.Linear(context_width, 3 * width) for _ in range(num_layers))
        self.layers = nn.ModuleList(SwiGLU(width, swiglu_hidden(width, 64)) for _ in range(num_layers))
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.out = nn.Linear(width, num_bits)

    def forward(self, context: Tensor, bits: Tensor) -> Tensor:
        """Logits [..., K] of each bit being 1, from contexts [..., D] and bits [..., K]: +1, -1, or 0 where masked."""
        features = self.embed_bits(bits.to(context.dtype)) + self.embed_context(context)
        for norm, modulation, layer in zip(self.norms, self.modulations, self.layers, strict=True):
            scale, shift, gate = modulation(context).chunk(3, dim=-1)
            features = features + gate * layer(norm(features) * (1 + scale) + shift)
        return self.out(self.norm(features))


class BitwiseGenerator(TokenTransformer):
    """Class-conditional next-token prediction over a grid of tokens of K bits, predicted bit by bit.

    Sub-tokens are the bits: `bits` is (1,) * K, as its trainings and `Factorization` see it.

    Args:
        num_bits: K, at most 62; the tokenizer's codebook has 2^K codes.
        grid, num_classes, width, num_heads, hidden, dropout, normalize_queries_and_keys: see `TokenTransformer`.
        num_spatial_blocks: over positions.
        num_head_layers, head_width: of `MaskedBitHead`.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        num_bits: int = 18,
        grid: Sequence[int] = (16, 16),
        num_classes: int = 1000,
        width: int = 1024,
        num_heads: int = 16,
        num_spatial_blocks: int = 24,
        num_head_layers: int = 3,
        head_width: int = 1024,
        hidden: int | None = None,
        dropout: float = 0.1,
        normalize_queries_and_keys: bool = True,
    ) -> None:
        integer(1, num_bits=num_bits, num_spatial_blocks=num_spatial_blocks, head_width=head_width)
        integer(0, num_head_layers=num_head_layers)
        options = (width, num_heads, hidden, dropout, normalize_queries_and_keys)
        super().__init__((1,) * num_bits, grid, num_classes, *options, rotate_class_slot=True, has_heads=False)
        self.num_bits = num_bits
        self.num_spatial_blocks = num_spatial_blocks
        self.num_head_layers = num_head_layers
        self.head_width = head_width
        self.embed_token = nn.Linear(num_bits, width)
        self.spatial_blocks = self.make_blocks(num_spatial_blocks)
        self.head = MaskedBitHead(num_bits, width, head_width, num_head_layers)
        self.apply(initialize)
        for modulation in self.head.modulations:  # every layer begins as the identity (adaLN-Zero)
            nn.init.zeros_(modulation.weight)
        nn.init.zeros_(self.head.out.weight)

    def forward(self, sub_tokens: Tensor, is_masked: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, N, K] of every bit being 1, given the tokens before it and the known bits of its own.

        Args:
            sub_tokens: the bits int64 [B, N, K] in {0, 1}; of a token, those that are masked are not read.
            is_masked: bool [B, N, K].
            labels: int64 [B] in [0, num_classes], with num_classes for the null class.

        Raises:
            ValueError: for other shapes, or labels outside the class table.
        """
        expected = (len(labels), self.num_tokens, self.num_bits)
        if not tuple(sub_tokens.shape) == tuple(is_masked.shape) == expected:
            raise ValueError(
                f"expected bits and mask {expected} of grid {self.grid}, got {tuple(sub_tokens.shape)} and "
                f"{tuple(is_masked.shape)}"
            )
        check_labels(labels, self.num_classes)
        signs = 2 * sub_tokens - 1
        tokens = self.embed_token(signs[:, :-1].to(self.embed_token.weight.dtype))
        features = self.input_dropout(torch.cat([self.class_embedding(labels)[:, None], tokens], dim=1))
        return self.head(self.norm(self.context(features)), signs.masked_fill(is_masked, 0))

    def context(self, features: Tensor, cache: KeyValueCache | None = None, start: int = 0) -> Tensor:
        """Output of the spatial blocks for inputs [B, n, D] of positions start ... start + n - 1."""
        rotary = self.rotary(features)[start : start + features.shape[1]]
        for layer, block in enumerate(self.spatial_blocks):
            features = block(features, rotary, True, cache, layer, start)
        return features

    def make_settings(self, **options: Any) -> BitwiseSampling:
        """See `protocols.Generator`; the options are the attributes of `BitwiseSampling`, a value or a list of one."""
        check_options(options, [item.name for item in fields(BitwiseSampling)])
        options = single_values(options)
        check_effects(options)
        settings = BitwiseSampling(**options)
        self._check_steps(settings)
        return settings

    @torch.no_grad()
    def generate(self, labels: Tensor, seeds: Sequence[int], settings: BitwiseSampling | None = None) -> Tensor:
        """See `protocols.Generator`."""
        settings = BitwiseSampling() if settings is None else settings
        check_requests(self, labels, seeds)
        self._check_steps(settings)
        batch, device, dtype = len(labels), self.device, self.class_embedding.weight.dtype
        rows = labels.to(device)
        if settings.guidance != 1.0:
            rows = torch.cat([rows, torch.full_like(rows, self.null_class)])
        sizes = (self.num_spatial_blocks, len(rows), self.num_heads, self.num_tokens, self.width // self.num_heads)
        cache = KeyValueCache(*sizes, dtype, device)
        guidance = Sampling(schedule=settings.schedule, power=settings.power)
        uniform = Streams(seeds).uniform(self.num_tokens, 2, self.num_bits).to(device)  # [B, N, 2, K]
        tokens = torch.empty(batch, self.num_tokens, self.num_bits, dtype=torch.int64, device=device)
        features, finite = self.class_embedding(rows)[:, None], FiniteLogits(device)
        with packed(self, len(rows)):
            for position in range(self.num_tokens):
                context = self.norm(self.context(features, cache, position)[:, 0])
                scale = guidance.scale(settings.guidance, position, self.num_tokens)
                signs = self._draw_bits(context, uniform[:, position], scale, settings, finite)
                tokens[:, position] = signs > 0
                features = self.embed_token(signs.to(dtype).repeat(len(rows) // batch, 1))[:, None]
        finite.check()
        return self.factorization.join(tokens).unflatten(1, self.grid)

    def _check_steps(self, settings: BitwiseSampling) -> None:
        if settings.num_steps > self.num_bits:
            raise ValueError(
                f"num_steps must be at most {self.num_bits}, the bits of a token, got {settings.num_steps}"
            )

    def _draw_bits(
        self, context: Tensor, uniform: Tensor, scale: float, settings: BitwiseSampling, finite: FiniteLogits
    ) -> Tensor:
        """The bits [B, K] in {-1, +1} of one token, from its context [B, D], or [2 B, D] with guidance.

        The uniform numbers are float64 [B, 2, K]: of the bits' values and of their order.
        """
        signs = torch.zeros(len(uniform), self.num_bits, dtype=torch.int64, device=context.device)
        for step in range(settings.num_steps):
            logits = at_least_float32(self.head(context, signs.repeat(len(context) // len(signs), 1)))
            if len(context) > len(signs):
                conditional, null = logits.chunk(2)
                logits = torch.lerp(null, conditional, scale)
            finite.note(logits)
            probability = divided(logits, settings.temperature).sigmoid().to(torch.float64)
            is_one = probability > 0.5 if settings.greedy else uniform[:, 0] < probability
            certainty = torch.where(is_one, probability, 1.0 - probability)
            rank = (certainty if settings.order == "confidence" else uniform[:, 1]).masked_fill(signs != 0, -math.inf)
            number = self.num_bits * (step + 1) // settings.num_steps - self.num_bits * step // settings.num_steps
            revealed = rank.topk(number, dim=1).indices
            signs.scatter_(1, revealed, (2 * is_one.to(torch.int64) - 1).gather(1, revealed))
        return signs
