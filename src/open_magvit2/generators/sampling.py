"""Sampling from the autoregressive generator: one token after the other, with guidance and a seed for every image.

Guidance (Ho & Salimans, arXiv 2207.12598) as the reference computes it: l = u + scale (c - u), with the conditional and
the unconditional logits of the same tokens; scale 1 is none. `drawing` says what follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from open_magvit2.common.arguments import above
from open_magvit2.common.precision import at_least_float32
from open_magvit2.generators.backbone import check_labels
from open_magvit2.generators.drawing import FiniteLogits, Streams, SubTokenSampling, draw, filtered
from open_magvit2.generators.packing import packed
from open_magvit2.layers.attention import KeyValueCache

if TYPE_CHECKING:
    from open_magvit2.generators.autoregressive import AutoregressiveGenerator

GuidanceSchedule = Literal["constant", "linear", "cosine", "power_cosine"]


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
        if not isinstance(self.greedy, bool):
            raise ValueError(f"greedy must be true or false, got {self.greedy!r}")

    def of_groups(self, num_groups: int) -> tuple[SubTokenSampling, ...]:
        """The setting of every sub-token.

        Raises:
            ValueError: for another number of settings.
        """
        if len(self.groups) not in (1, num_groups):
            raise ValueError(f"expected 1 or {num_groups} sub-token settings, got {len(self.groups)}")
        return tuple(self.groups) if len(self.groups) == num_groups else (self.groups[0],) * num_groups

    def scale(self, guidance: float, position: int, num_positions: int) -> float:
        """The guidance scale at a position."""
        if self.schedule == "constant":
            return guidance
        share = position / num_positions
        if self.schedule != "linear":
            share = (1.0 - math.cos(math.pi * share ** (self.power if self.schedule == "power_cosine" else 1.0))) / 2.0
        return 1.0 + (guidance - 1.0) * share


def make_settings(num_groups: int, **options: Any) -> Sampling:
    """Settings from named options, as a command line has them.

    Args:
        num_groups: G, sub-tokens of a token.
        options: guidance, temperature, top_k, top_p: a number, or one for each sub-token; schedule, power, greedy.

    Raises:
        ValueError: for another option, one without effect, or another number of values.
    """
    names = [item.name for item in fields(SubTokenSampling)]
    check_options(options, [*names, *(item.name for item in fields(Sampling) if item.name != "groups")])
    check_effects(options)
    of_groups: list[dict[str, float]] = [{} for _ in range(num_groups)]
    for name in names:
        value = options.pop(name, None)
        values = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
        if len(values) not in (0, 1, num_groups):
            raise ValueError(f"{name} must be one number, or {num_groups}, one a sub-token, got {values}")
        for group, number in enumerate(values * (num_groups if len(values) == 1 else 1)):
            of_groups[group][name] = number
    return Sampling(tuple(SubTokenSampling(**group) for group in of_groups), **options)


def check_options(options: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse options that a generator's sampling does not have.

    Raises:
        ValueError: naming them and the known ones.
    """
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"this generator's sampling has no {', '.join(unknown)}; it has {', '.join(known)}")


def check_effects(options: dict[str, Any]) -> None:
    """Refuse options of a next-token sampling that another one leaves without effect.

    Raises:
        ValueError: naming both.
    """
    schedule = options.get("schedule", "constant")
    if "power" in options and schedule != "power_cosine":
        raise ValueError(f"power is of the schedule power_cosine, got schedule {schedule}: leave one out")
    of_draws = [name for name in ("temperature", "top_k", "top_p") if name in options]
    if options.get("greedy") and of_draws:
        raise ValueError(f"greedy takes the most probable value, got {', '.join(of_draws)} too: leave one out")


def single_values(options: dict[str, Any]) -> dict[str, Any]:
    """Named options of a sampling that has one value for all sub-tokens: a list of one is its value.

    Raises:
        ValueError: for several values.
    """
    for name, value in options.items():
        if isinstance(value, (list, tuple)) and len(value) != 1:
            raise ValueError(f"this generator's sampling has one {name} for all sub-tokens, got {list(value)}")
    return {name: value[0] if isinstance(value, (list, tuple)) else value for name, value in options.items()}


@torch.no_grad()
def sample(
    generator: AutoregressiveGenerator,
    labels: Tensor,
    seeds: Sequence[int],
    settings: Sampling | None = None,
    num_tokens: int | None = None,
) -> Tensor:
    """Generate the tokens of one image a label.

    An image depends on its label, its seed and the settings; not on the batch it is made in, up to rounding. The keys
    and values of all positions are allocated once. On a CPU weights are packed for the call (`packing`), which takes
    their memory once more.

    Args:
        generator: in eval mode, in float32, float64, bfloat16 or float16, or under autocast.
        labels: int64 [B] in [0, num_classes).
        seeds: one an image.
        settings: greedy, guidance and so on; by default plain sampling.
        num_tokens: stop after so many; by default the whole grid.

    Returns:
        indices int64 [B, *grid], or [B, num_tokens] if it stops early.

    Raises:
        ValueError: for labels outside the class table, another number of seeds, more tokens than the grid has, or
            logits that are not finite (`NotFiniteError`).
    """
    settings = Sampling() if settings is None else settings
    number = generator.num_tokens if num_tokens is None else num_tokens
    if not 1 <= number <= generator.num_tokens:
        raise ValueError(f"num_tokens must be 1 to {generator.num_tokens}, the grid's, got {num_tokens}")
    groups = settings.of_groups(len(generator.bits))
    rows, uniform, scales = prepare(generator, labels, seeds, settings)
    caches = generator.make_caches(len(rows))
    sub_tokens = torch.empty(len(labels), number, len(groups), dtype=torch.int64, device=generator.device)
    features, finite = generator.class_embedding(rows)[:, None], FiniteLogits(generator.device)
    with packed(generator, len(rows)):
        for position in range(number):
            at = uniform[position], scales[position]
            chosen, features = next_token(generator, caches, features, position, *at, groups, settings.greedy, finite)
            sub_tokens[:, position] = chosen
    finite.check()
    indices = generator.factorization.join(sub_tokens)
    return indices.unflatten(1, generator.grid) if number == generator.num_tokens else indices


def prepare(
    generator: AutoregressiveGenerator, labels: Tensor, seeds: Sequence[int], settings: Sampling
) -> tuple[Tensor, Tensor, Tensor]:
    """Prepare labels, random numbers and guidance scales before the first token.

    Returns:
        labels int64 [B], or [2 B] with the null class where there is guidance; uniform numbers float64 [N, B, G];
        guidance scales float64 [N, G]; all on the generator's device.

    Raises:
        ValueError: for labels outside the class table, or another number of seeds.
    """
    check_requests(generator, labels, seeds)
    number, groups = generator.num_tokens, settings.of_groups(len(generator.bits))
    scales = [[settings.scale(group.guidance, position, number) for group in groups] for position in range(number)]
    uniform = Streams(seeds).uniform(number, len(groups)).transpose(0, 1).contiguous()
    labels = labels.to(generator.device)
    if any(group.guidance != 1.0 for group in groups):
        labels = torch.cat([labels, torch.full_like(labels, generator.null_class)])
    return labels, uniform.to(generator.device), torch.tensor(scales, dtype=torch.float64, device=generator.device)


def check_requests(generator: Any, labels: Tensor, seeds: Sequence[int]) -> None:
    """Refuse labels outside the class table, no label at all, or another number of seeds.

    Raises:
        ValueError: naming both sides.
    """
    check_labels(labels.cpu(), generator.num_classes, allow_null=False)
    if len(seeds) != len(labels) or len(labels) == 0:
        raise ValueError(f"expected one seed an image, got {len(seeds)} seeds for {len(labels)} labels")


def next_token(
    generator: AutoregressiveGenerator,
    caches: tuple[KeyValueCache, KeyValueCache],
    features: Tensor,
    position: int | Tensor,
    uniform: Tensor,
    scales: Tensor,
    groups: Sequence[SubTokenSampling],
    greedy: bool,
    finite: FiniteLogits,
) -> tuple[Tensor, Tensor]:
    """One step: the sub-tokens of a position, and the input of the next.

    Args:
        generator: the model.
        caches: of `make_caches` for R rows; those of this position are added.
        features: [R, 1, D], the input of this position; R is 2 B with guidance, conditional rows first, else B.
        position: a number; or a tensor int64 [1], which makes all shapes the same whatever the position.
        uniform: float64 [B, G] in [0, 1).
        scales: float64 [G], of guidance.
        groups: the settings of every sub-token.
        greedy: the most probable value instead of a drawn one.
        finite: takes note of the logits.

    Returns:
        sub-tokens int64 [B, G]; features [R, 1, D].
    """
    spatial, factorized = caches
    copies = len(features) // len(uniform)
    slot = generator.context(features, spatial, position)[:, 0]
    chosen: list[Tensor] = []
    for group, setting in enumerate(groups):
        logits = at_least_float32(generator.next_logits(slot, group, factorized))
        if copies == 2:
            conditional, null = logits.chunk(2)
            # u + s (c - u), and exactly c at s = 1
            logits = torch.lerp(null, conditional, scales[group].to(logits.dtype))
        finite.note(logits)
        value = logits.argmax(dim=-1) if greedy else draw(filtered(logits, setting), uniform[:, group])
        chosen.append(value)
        if group + 1 < len(groups):
            slot = generator.embeddings[group](value.repeat(copies))  # both halves get the same tokens
    sub_tokens = torch.stack(chosen, dim=-1)
    return sub_tokens, generator.embed_tokens(sub_tokens[:, None].repeat(copies, 1, 1))
