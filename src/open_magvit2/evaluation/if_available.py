"""Metrics with networks for the validation of a training: as in an evaluation, where their weights can be had.

What a machine lacks stops no training: it is said once, at the start, and the rest is computed.
"""

import logging
from collections.abc import Sequence

from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from open_magvit2.common.distributed import all_gather_object
from open_magvit2.evaluation import metrics
from open_magvit2.evaluation.metrics import MetricContext

logger = logging.getLogger(__name__)


class IfAvailable:
    """A `protocols.Metric` of several, without those whose network weights are not on every rank's machine.

    Weights are found as everywhere: in the cache folder, else by download.

    Args:
        names: modules of `evaluation.metrics` that read weights and nothing else: rfid, rfid_u8, rfid_tf, lpips,
            lpips_alex, lpips_vgg. The others have no reason to be here; `metrics` takes them directly.

    Raises:
        ValueError: for any other name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        allowed = [name for name in metrics.available() if name.startswith(("rfid", "lpips"))]
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise ValueError(f"cannot be left out for missing weights: {', '.join(unknown)}; available: {allowed}")
        # They look at images alone, so that the context's codebook size does not matter.
        self.metrics, self.absent = metrics.create(list(names), MetricContext(codebook_size=1))
        if self.absent:
            reasons = "; ".join(dict.fromkeys(self.absent.values()))
            _warn("validation goes without %s: %s", ", ".join(self.absent), reasons)

    def update(self, image: Tensor, reconstruction: Tensor, indices: Tensor, sample_index: Tensor) -> None:
        """Take one batch, see `protocols.Metric.update`."""
        for metric in self.metrics.values():
            metric.update(image, reconstruction, indices, sample_index)

    def compute(self) -> dict[str, float]:
        """The figures that every rank can compute; a collective call under DDP."""
        everywhere = set.intersection(*map(set, all_gather_object(list(self.metrics))))
        lacking = [name for name in self.metrics if name not in everywhere]
        if lacking:
            _warn("validation goes without %s: its weights are missing on another rank's machine", ", ".join(lacking))
        figures: dict[str, float] = {}
        self.metrics = {name: metric for name, metric in self.metrics.items() if name in everywhere}
        for metric in self.metrics.values():
            figures |= metric.compute()
        return figures

    def reset(self) -> None:
        """Forget everything; the networks stay."""
        for metric in self.metrics.values():
            metric.reset()


@rank_zero_only
def _warn(message: str, *values: str) -> None:
    logger.warning(message, *values)
