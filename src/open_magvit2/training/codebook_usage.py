"""Which codes a training uses, counted over a window of steps and across interruptions."""

from typing import Any

from torch import Tensor

from open_magvit2.common import distributed
from open_magvit2.common.arguments import integer
from open_magvit2.common.codebook import CodeHistogram


class CodebookUsage:
    """Counts the codes of all ranks on the device; their utilization and entropy are known every `window` steps."""

    def __init__(self, codebook_size: int, window: int) -> None:
        integer(1, usage_window=window)
        self.window = window
        self._histogram = CodeHistogram(codebook_size)
        self._saved: dict[str, Tensor] | None = None  # from a checkpoint, until the device is known

    def update(self, indices: Tensor) -> None:
        """Count indices int64 of any shape."""
        if self._saved is not None and distributed.rank() == 0:  # the counts are those of all ranks together
            self._histogram.restore(*(self._saved[name].to(indices.device) for name in ("codes", "counts")))
        self._saved = None
        self._histogram.update(indices)

    def figures(self, step: int) -> dict[str, float]:
        """Utilization and entropy_bits of a window at its end, as train/codebook_<name>; nothing in between."""
        if step % self.window:
            return {}
        usage = self._histogram.compute()
        self._histogram.reset()
        return {f"train/codebook_{name}": usage[name] for name in ("utilization", "entropy_bits")}

    def state_dict(self) -> dict[str, Any]:
        """The counts of all ranks; a collective call under DDP."""
        return self._saved or dict(zip(("codes", "counts"), self._histogram.merged(), strict=True))

    def load_state_dict(self, state_dict: dict[str, Any] | None) -> None:
        """Go on from counts; from none for a checkpoint that has none."""
        self._saved = state_dict
