"""Masks of training and of sampling: how many sub-tokens are masked, which ones, and the sampling loop.

Sources: MaskGIT (arXiv 2202.04200), section 3.2, for confidence sampling with annealed Gumbel noise and the cosine
schedule; MaskBit (arXiv 2409.16211) for the arccos schedule, guidance that grows with the step and groups masked alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from open_magvit2.common.arguments import above, at_least, integer
from open_magvit2.common.precision import at_least_float32
from open_magvit2.generators.drawing import FiniteLogits, Streams, draw
from open_magvit2.generators.sampling import check_options, check_requests, single_values

if TYPE_CHECKING:
    from open_magvit2.generators.masked import MaskedGenerator

MaskSchedule = Literal["arccos", "cosine"]
_FINITE = torch.finfo(torch.float64).min, torch.finfo(torch.float64).max


def masked_share(progress: Tensor, schedule: MaskSchedule) -> Tensor:
    """Share of sub-tokens that is masked at a progress in [0, 1]: arccos(t) 2 / pi, or cos(pi t / 2)."""
    return progress.acos() * (2 / math.pi) if schedule == "arccos" else (progress * (math.pi / 2)).cos()


def training_mask(
    shape: tuple[int, int, int], schedule: MaskSchedule, generator: torch.Generator | None = None
) -> Tensor:
    """A random mask, bool [B, N, G]: each image's share is `masked_share` of a uniform number."""
    share = masked_share(torch.rand(shape[0], 1, 1, generator=generator), schedule)
    return torch.rand(shape, generator=generator) < share


@dataclass(frozen=True)
class MaskedSampling:
    """Settings of masked sampling; the defaults are MaskBit's for 14 bits in 64 steps.

    Attributes:
        num_steps: forward passes.
        guidance: s; the logits are c + s_i (c - u), so that 0 is none, with s_i = s (1 - cos(pi (i / T)^power)) / 2.
        power: of the guidance schedule.
        temperature: of the Gumbel noise on the confidence, which falls linearly to 0.
        schedule: how many sub-tokens stay masked after a step.
    """

    num_steps: int = 64
    guidance: float = 7.1
    power: float = 3.0
    temperature: float = 7.8
    schedule: MaskSchedule = "arccos"

    def __post_init__(self) -> None:
        integer(1, num_steps=self.num_steps)
        at_least(0, guidance=self.guidance, temperature=self.temperature)
        above(0, power=self.power)
        if self.schedule not in ("arccos", "cosine"):
            raise ValueError(f"schedule must be arccos or cosine, got {self.schedule!r}")

    def scale(self, step: int) -> float:
        """The guidance scale of a step in [0, num_steps)."""
        return self.guidance * (1.0 - math.cos(math.pi * (step / self.num_steps) ** self.power)) / 2.0

    def num_masked(self, total: int, step: int, now: int) -> int:
        """Number of `total` sub-tokens that stay masked after a step before the last one, if `now` are masked in it."""
        progress = torch.tensor((step + 1) / self.num_steps, dtype=torch.float32)  # the precision decides some floors
        share = float(masked_share(progress, self.schedule))
        return max(min(math.floor(total * share), now - 1), min(1, now))


def make_settings(**options: Any) -> MaskedSampling:
    """Settings from named options, as a command line has them: a number, or a list of one.

    Raises:
        ValueError: for another option, or several values.
    """
    check_options(options, [item.name for item in fields(MaskedSampling)])
    return MaskedSampling(**single_values(options))


@torch.no_grad()
def sample_masked(
    generator: MaskedGenerator,
    labels: Tensor,
    seeds: Sequence[int],
    settings: MaskedSampling | None = None,
    known: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Generate the tokens of one image a label, all of them or those that are not known.

    An image depends on its label, its seed, its known tokens and the settings; not on the batch it is made in, up to
    rounding.

    Args:
        generator: in eval mode.
        labels: int64 [B] in [0, num_classes).
        seeds: one an image.
        settings: see `MaskedSampling`.
        known: (indices int64 [B, *grid], is_known bool [B, *grid]) of tokens to keep, for inpainting, outpainting and
            editing.

    Returns:
        indices int64 [B, *grid].

    Raises:
        ValueError: for labels outside the class table, another number of seeds, known tokens of another shape, or
            logits that are not finite.
    """
    settings = MaskedSampling() if settings is None else settings
    check_requests(generator, labels, seeds)
    batch, number, num_groups, device = len(labels), generator.num_tokens, len(generator.bits), generator.device
    labels = labels.to(device)
    sub_tokens = torch.zeros(batch, number, num_groups, dtype=torch.int64, device=device)
    is_masked = torch.ones(batch, number, num_groups, dtype=torch.bool, device=device)
    if known is not None:
        indices, is_known = (tensor.to(device) for tensor in known)
        if not tuple(indices.shape) == tuple(is_known.shape) == (batch, *generator.grid):
            shapes = f"{tuple(indices.shape)} and {tuple(is_known.shape)}"
            raise ValueError(f"expected known tokens {(batch, *generator.grid)}, got {shapes}")
        kept = is_known.flatten(1)[..., None]
        split = generator.factorization.split(indices.flatten(1).masked_fill(~is_known.flatten(1), 0))
        sub_tokens, is_masked = torch.where(kept, split, sub_tokens), ~kept & is_masked
    counts = totals = is_masked.flatten(1).sum(dim=1).tolist()
    finite = FiniteLogits(device)
    numbers = Streams(seeds).uniform(settings.num_steps, 2, number, num_groups).to(device)  # [B, steps, 2, N, G]
    for step, uniform in enumerate(numbers.unbind(1)):
        logits = _guided(generator, sub_tokens, is_masked, labels, settings.scale(step))
        for values in logits:
            finite.note(values)
        drawn, confidence = _draw(logits, uniform[:, 0])
        sub_tokens = torch.where(is_masked, drawn, sub_tokens)
        if step + 1 == settings.num_steps:
            break
        gumbel = -torch.log(-torch.log(uniform[:, 1].clamp_min(torch.finfo(torch.float64).tiny)))
        confidence = confidence + settings.temperature * (1.0 - (step + 1) / settings.num_steps) * gumbel
        # Finite whatever the temperature: sub-tokens that are not masked must stay above all others.
        confidence = confidence.clamp(*_FINITE).masked_fill(~is_masked, math.inf)
        counts = [settings.num_masked(total, step, now) for total, now in zip(totals, counts, strict=True)]
        rank = confidence.flatten(1).argsort(dim=1).argsort(dim=1)
        is_masked = (rank < torch.tensor(counts, device=device)[:, None]).view_as(is_masked)
    finite.check()
    return generator.factorization.join(sub_tokens).unflatten(1, generator.grid)


def _guided(
    generator: MaskedGenerator, sub_tokens: Tensor, is_masked: Tensor, labels: Tensor, scale: float
) -> list[Tensor]:
    if scale == 0.0:
        return generator(sub_tokens, is_masked, labels)
    both = torch.cat([labels, torch.full_like(labels, generator.null_class)])
    logits = generator(sub_tokens.repeat(2, 1, 1), is_masked.repeat(2, 1, 1), both)
    pairs = [at_least_float32(values).chunk(2) for values in logits]  # 16 bits would round the difference
    return [conditional + scale * (conditional - null) for conditional, null in pairs]


def _draw(logits: Sequence[Tensor], uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A value of every sub-token and its log-probability: int64 and float64 [B, N, G]."""
    drawn, confidence = [], []
    for group, values in enumerate(logits):
        log_probabilities = values.to(torch.float64).log_softmax(dim=-1)
        chosen = draw(log_probabilities.exp().flatten(0, 1), uniform[..., group].flatten()).view(values.shape[:2])
        drawn.append(chosen)
        confidence.append(log_probabilities.gather(-1, chosen[..., None])[..., 0])
    return torch.stack(drawn, dim=-1), torch.stack(confidence, dim=-1)
