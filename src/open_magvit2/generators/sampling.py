"""Sampling from the autoregressive generator: guidance, temperature, top-k, top-p, with a seed for every image.

Guidance (Ho & Salimans, arXiv 2207.12598) as the reference computes it: l = u + scale (c - u), with the conditional and
the unconditional logits of the same tokens; scale 1 is none. Then temperature, top-k, top-p (Holtzman et al., arXiv
1904.09751), softmax, and one draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from open_magvit2.common.arguments import above, at_least
from open_magvit2.generators.autoregressive import AutoregressiveGenerator, check_labels

GuidanceSchedule = Literal["constant", "linear", "cosine", "power_cosine"]


@dataclass(frozen=True)
class SubTokenSampling:
    """How one sub-token of every position is drawn.

    Attributes:
        guidance: scale of classifier-free guidance; 1 is none.
        temperature: divides the logits.
        top_k: keep the k largest logits, and those equal to the smallest of them; 0 keeps all.
        top_p: keep the most probable values up to the first at which their sum exceeds p; 1 keeps all.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        at_least(0, guidance=self.guidance, top_k=self.top_k)
        above(0, temperature=self.temperature, top_p=self.top_p)


@dataclass(frozen=True)
class Sampling:
    """Settings of a sampling run; results of an evaluation carry them.

    Attributes:
        groups: one setting a sub-token, or one for all.
        schedule: of the guidance scale s over positions, at share t = position / N: constant; linear, 1 + (s - 1) t
            (MAR, arXiv 2406.11838); cosine, 1 + (s - 1) (1 - cos(pi t)) / 2; power_cosine, the same with t^power (RAR,
            arXiv 2411.00776).
        power: of power_cosine.
        greedy: take the most probable value instead of drawing.
    """

    groups: Sequence[SubTokenSampling] = field(default_factory=lambda: (SubTokenSampling(),))
    schedule: GuidanceSchedule = "constant"
    power: float = 2.75
    greedy: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "linear", "cosine", "power_cosine"):
            raise ValueError(f"schedule must be constant, linear, cosine or power_cosine, got {self.schedule!r}")
        above(0, power=self.power)

    def of_group(self, group: int, num_groups: int) -> SubTokenSampling:
        """The setting of one sub-token."""
        if len(self.groups) not in (1, num_groups):
            raise ValueError(f"expected 1 or {num_groups} sub-token settings, got {len(self.groups)}")
        return self.groups[group if len(self.groups) > 1 else 0]

    def scale(self, guidance: float, position: int, num_positions: int) -> float:
        """The guidance scale at a position."""
        if self.schedule == "constant":
            return guidance
        share = position / num_positions
        if self.schedule != "linear":
            share = (1.0 - math.cos(math.pi * share ** (self.power if self.schedule == "power_cosine" else 1.0))) / 2.0
        return 1.0 + (guidance - 1.0) * share


@torch.no_grad()
def sample(
    generator: AutoregressiveGenerator,
    labels: Tensor,
    seeds: Sequence[int],
    settings: Sampling | None = None,
    num_tokens: int | None = None,
) -> Tensor:
    """Generate the tokens of one image a label.

    An image depends on its label, its seed and the settings; not on the batch it is made in, up to rounding.

    Args:
        generator: in eval mode.
        labels: int64 [B] in [0, num_classes).
        seeds: one an image.
        settings: greedy, guidance and so on; by default plain sampling.
        num_tokens: stop after so many; by default the whole grid.

    Returns:
        indices int64 [B, *grid], or [B, num_tokens] if it stops early.

    Raises:
        ValueError: for labels outside the class table, another number of seeds, or more tokens than the grid has.
    """
    settings = Sampling() if settings is None else settings
    check_labels(labels, generator.num_classes)
    number = generator.num_tokens if num_tokens is None else num_tokens
    if not 1 <= number <= generator.num_tokens:
        raise ValueError(f"num_tokens must be 1 to {generator.num_tokens}, the grid's, got {num_tokens}")
    if len(seeds) != len(labels):
        raise ValueError(f"expected one seed an image, got {len(seeds)} seeds for {len(labels)} labels")
    num_groups, batch = len(generator.bits), len(labels)
    groups = [settings.of_group(group, num_groups) for group in range(num_groups)]
    guided = any(group.guidance != 1.0 for group in groups)
    device = generator.class_embedding.weight.device
    labels = labels.to(device)
    if guided:
        labels = torch.cat([labels, torch.full_like(labels, generator.null_class)])
    uniform = None if settings.greedy else random_numbers(seeds, number, num_groups).to(device)
    spatial, factorized = generator.make_caches(len(labels))
    sub_tokens = torch.empty(batch, number, num_groups, dtype=torch.int64, device=device)
    features = generator.class_embedding(labels)[:, None]
    for position in range(number):
        slot = generator.context(features, spatial, position)[:, 0]
        for group, setting in enumerate(groups):
            logits = generator.next_logits(slot, group, factorized)
            if guided:
                conditional, null = logits.chunk(2)
                logits = null + settings.scale(setting.guidance, position, generator.num_tokens) * (conditional - null)
            if settings.greedy:
                chosen = logits.argmax(dim=-1)
            else:
                chosen = draw(filtered(logits, setting), uniform[:, position, group])
            sub_tokens[:, position, group] = chosen
            if group + 1 < num_groups:
                slot = generator.embeddings[group](_both(chosen, guided))
        if position + 1 < number:
            features = generator.embed_tokens(_both(sub_tokens[:, position : position + 1], guided))
    indices = generator.factorization.join(sub_tokens)
    return indices.unflatten(1, generator.grid) if number == generator.num_tokens else indices


def filtered(logits: Tensor, setting: SubTokenSampling) -> Tensor:
    """Probabilities float32 (float64 of float64) [B, V] after temperature, top-k and top-p."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / setting.temperature
    if 0 < setting.top_k < logits.shape[-1]:
        smallest = logits.topk(setting.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    probabilities = logits.softmax(dim=-1)
    if setting.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        dropped = (before > setting.top_p).scatter(-1, order, before > setting.top_p)
        probabilities = probabilities.masked_fill(dropped, 0.0)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The value at which the cumulated probabilities [B, V] pass a uniform number [B] in [0, 1): int64 [B]."""
    cumulated = probabilities.to(torch.float64).cumsum(dim=-1)
    thresholds = uniform[:, None] * cumulated[:, -1:]
    chosen = torch.searchsorted(cumulated, thresholds, right=True)[:, 0]
    last = probabilities.shape[-1] - 1 - probabilities.flip(-1).gt(0).to(torch.int8).argmax(dim=-1)
    return torch.minimum(chosen, last)


def random_numbers(seeds: Sequence[int], num_positions: int, num_groups: int) -> Tensor:
    """Uniform numbers float64 [B, positions, groups], each image's from its own seed, on the CPU."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        drawn.append(torch.rand(num_positions, num_groups, dtype=torch.float64, generator=generator))
    return torch.stack(drawn)


def _both(chosen: Tensor, guided: bool) -> Tensor:
    """The conditional and the unconditional half get the same tokens."""
    return torch.cat([chosen, chosen]) if guided else chosen
