"""The learning-rate schedule of the published generators (Luo et al., arXiv 2409.04410)."""

from open_magvit2.common.arguments import integer, within
from open_magvit2.training.schedules import Schedule


class WarmupLinear(Schedule):
    """Linear warm-up, the peak for a while, then a straight line down to `final_factor` at the last step.

    Args:
        total_steps: of the training.
        warmup_steps: of them, in which the factor rises from `initial_factor` to 1.
        initial_factor: of the first step.
        hold: share of the steps after the warm-up that stay at the peak.
        final_factor: of the last step.

    Raises:
        ValueError: for a warm-up that leaves no two steps, or a number out of range.
    """

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int = 0,
        initial_factor: float = 0.005,
        hold: float = 0.05,
        final_factor: float = 0.1,
    ) -> None:
        integer(0, warmup_steps=warmup_steps)
        super().__init__(warmup_steps)
        within(0, 1, include_high=True, initial_factor=initial_factor, final_factor=final_factor)
        within(0, 1, hold=hold)
        integer(warmup_steps + 2, total_steps=total_steps)
        self.total_steps = total_steps
        self.initial_factor = initial_factor
        self.hold = hold
        self.final_factor = final_factor

    def __call__(self, step: int) -> float:
        """The factor on the learning rate after `step` steps."""
        if step < self.warmup_steps:
            return self.initial_factor + (1 - self.initial_factor) * step / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - 1 - self.warmup_steps))
        if progress < self.hold:
            return 1.0
        return self.final_factor + (1 - self.final_factor) * (1 - progress) / (1 - self.hold)
