"""Learning-rate schedules: the factor on the base learning rate as a function of the training step."""

import math
from collections.abc import Sequence

from open_magvit2.common.arguments import above, integer, within


class Schedule:
    """Maps the number of training steps done so far to a factor in [0, 1]: a linear warm-up, then a schedule's own."""

    def __init__(self, warmup_steps: int = 0) -> None:
        integer(0, warmup_steps=warmup_steps)
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1)) * self.after_warmup(step)

    def after_warmup(self, step: int) -> float:
        """The factor at a step, without the warm-up."""
        return 1.0


class Constant(Schedule):
    """1 after the warm-up (the published B recipe has none)."""


class StepDrop(Schedule):
    """Multiplied by `factor` at each of the given steps (the published L recipe: 0.1 at epochs 200 and 250)."""

    def __init__(self, drop_steps: Sequence[int], factor: float = 0.1, warmup_steps: int = 0) -> None:
        super().__init__(warmup_steps)
        above(0, factor=factor)
        if drop_steps:
            integer(1, drop_steps=drop_steps)
        if list(drop_steps) != sorted(drop_steps):
            raise ValueError(f"drop_steps must be increasing, got {list(drop_steps)}")
        self.drop_steps, self.factor = list(drop_steps), factor

    def after_warmup(self, step: int) -> float:
        return self.factor ** sum(step >= drop for drop in self.drop_steps)


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine from 1 to `final_factor` at `total_steps` (Loshchilov & Hutter 2017)."""

    def __init__(self, total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0) -> None:
        super().__init__(warmup_steps)
        integer(warmup_steps + 1, total_steps=total_steps)
        within(0, 1, include_high=True, final_factor=final_factor)
        self.total_steps, self.final_factor = total_steps, final_factor

    def after_warmup(self, step: int) -> float:
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        progress = min(1.0, max(0.0, progress))
        return self.final_factor + (1.0 - self.final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))
