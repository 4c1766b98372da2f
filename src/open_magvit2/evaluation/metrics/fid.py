"""FID and sFID of generated images against the moments of a reference set, as the ADM evaluator computes them.

FID (Heusel et al. 2017): 2048 pooled features. sFID (Nash et al., arXiv 2103.03841): 2023 spatial ones, which see where
things are. Pixels are 8-bit and resized as TensorFlow 1 does.
"""

from typing import Literal

from open_magvit2.common import weights
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.frechet import Moments, frechet_distance
from open_magvit2.evaluation.features.reference import Reference
from open_magvit2.protocols import EvaluationBatch


class GenerationFID:
    """`fid` or `sfid`, in constant memory; the distance takes seconds on a CPU, once.

    Args:
        reference: what to compare with.
        features: "pooled" (fid) or "spatial" (sfid).
    """

    weight_files = (weights.INCEPTION,)

    def __init__(self, reference: Reference, features: Literal["pooled", "spatial"] = "pooled") -> None:
        self.name = "fid" if features == "pooled" else "sfid"
        self.features = features
        self.network = inception.load()
        self._reference = reference.pooled if features == "pooled" else reference.spatial
        if self._reference is None:
            raise ValueError(f"{self.name} needs the moments mu_s and sigma_s of the reference, which has none")
        self._samples = Moments(len(self._reference.mean))

    def update(self, batch: EvaluationBatch) -> None:
        """Accumulate the features of a batch."""
        output = self.network(batch.output, "tf")
        self._samples.update(output.features if self.features == "pooled" else output.spatial)

    def compute(self) -> dict[str, float]:
        """The distance over all ranks; a collective call under DDP.

        Raises:
            ValueError: with fewer than two images.
        """
        return {self.name: frechet_distance(self._samples.gaussian(), self._reference)}

    def reset(self) -> None:
        """Forget the samples."""
        self._samples.reset()
