"""Share of the decoder's output outside [-1, 1] before it is clamped: a diagnostic of wrong ranges."""

from torch import Tensor

from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.evaluation.pixels import image_by_image
from open_magvit2.protocols import EvaluationBatch


class ClampFraction(PerImageMetric):
    """`clamp_fraction`: share of values with |x'| > 1, in [0, 1]; a few percent are usual, 20 % a sign of trouble."""

    columns = ("clamp_fraction",)

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        (number,) = image_by_image(lambda x: ((x.abs() > 1.0).flatten(1).count_nonzero(dim=1),), batch.output)
        return {"clamp_fraction": number.double() / batch.output[0].numel()}
