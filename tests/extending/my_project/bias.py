"""`bias`: how much brighter reconstructions are than their originals, of values in [-1, 1]."""

from torch import Tensor

from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.protocols import EvaluationBatch


class Bias(PerImageMetric):
    columns = ("bias",)

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        return {"bias": (batch.output.double() - batch.image.double()).flatten(1).mean(dim=1)}
