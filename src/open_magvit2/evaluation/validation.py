"""Metrics by name for the validation of a training, without those whose network weights this machine lacks."""

import logging
from collections.abc import Sequence

from pytorch_lightning.utilities import rank_zero_only

from open_magvit2.common.distributed import all_gather_object
from open_magvit2.evaluation import metrics
from open_magvit2.evaluation.metrics import MetricContext, merged
from open_magvit2.protocols import EvaluationBatch

logger = logging.getLogger(__name__)


class ValidationMetrics:
    """A `protocols.Metric` made of several; one whose weights are missing on any rank is left out with a warning.

    Args:
        names: as `--metrics` takes them: psnr, ssim, rfid, lpips_alex, or a class path.
        codebook_size: of the tokenizer, for metrics that need it; trainings log codebook utilization without.

    Raises:
        ValueError: for an unknown name, or a metric that needs to know what a training does not tell.
    """

    def __init__(self, names: Sequence[str], codebook_size: int | None = None) -> None:
        self.metrics, self.absent = metrics.create(names, MetricContext(codebook_size))
        if self.absent:
            reasons = "; ".join(dict.fromkeys(self.absent.values()))
            _warn("validation goes without %s: %s", ", ".join(self.absent), reasons)

    def update(self, batch: EvaluationBatch) -> None:
        for metric in self.metrics.values():
            metric.update(batch)

    def compute(self) -> dict[str, float]:
        """The figures that every rank can compute; a collective call under DDP."""
        everywhere = set.intersection(*map(set, all_gather_object(list(self.metrics))))
        if missing := [name for name in self.metrics if name not in everywhere]:
            _warn("validation goes without %s: its weights are missing on another rank's machine", ", ".join(missing))
        self.metrics = {name: metric for name, metric in self.metrics.items() if name in everywhere}
        figures: dict[str, float] = {}
        for name, metric in self.metrics.items():
            figures = merged(figures, metric.compute(), name)
        return figures

    def reset(self) -> None:
        """Forget everything; the networks stay."""
        for metric in self.metrics.values():
            metric.reset()


_warn = rank_zero_only(logger.warning)
