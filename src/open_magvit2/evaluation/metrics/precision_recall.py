"""Share of the samples that are realistic, and of the real images that are covered, by nearest neighbours.

Precision and recall: Kynkaanniemi et al., arXiv 1904.06991, with 3 neighbours and distances up to the radius, as the
ADM evaluator has them; it computes in float16. Density and coverage: Naeem et al., arXiv 2002.09797, with 5 neighbours
and distances below the radius, as its code has them: one outlier among the real images does not raise them.
"""

import torch
from torch import Tensor

from open_magvit2.common import weights
from open_magvit2.common.accumulators import collective_device
from open_magvit2.common.distributed import all_reduce_sum
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.neighbours import BLOCK, blocks_over_ranks, nearest, pairs
from open_magvit2.evaluation.features.reference import Reference
from open_magvit2.protocols import EvaluationBatch

NEIGHBOURS = 3  # of precision and recall
DENSITY_NEIGHBOURS = 5  # of density and coverage


class PrecisionRecall:
    """`precision`, `recall`, `density` and `coverage`; keeps 8 KB an image, on the device of the batches.

    Of n samples and m real images the time is that of (n + m)^2 distances, shared by the ranks.
    """

    weight_files = (weights.INCEPTION,)

    def __init__(self, reference: Reference) -> None:
        self.network = inception.load()
        if reference.features is None:
            raise ValueError("precision and recall need the images arr_0 of the reference, which has moments alone")
        self._real = reference.features
        self.reset()

    def reset(self) -> None:
        """Forget the samples."""
        self._features: list[Tensor] = []

    def update(self, batch: EvaluationBatch) -> None:
        """Keep the features of a batch."""
        self._features.append(self.network(batch.output, "tf").features)

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """The figures over all ranks; a collective call under DDP.

        Raises:
            ValueError: for fewer samples or real images than neighbours.
        """
        empty = torch.empty(0, self._real.shape[1], device=collective_device())
        samples = torch.cat(self._features) if self._features else empty
        real = self._real.to(samples)
        number = int(all_reduce_sum(torch.tensor(len(samples), device=samples.device)))
        if number <= NEIGHBOURS or len(real) <= DENSITY_NEIGHBOURS:
            raise ValueError(
                f"precision, recall, density and coverage need at least {NEIGHBOURS + 1} samples and "
                f"{DENSITY_NEIGHBOURS + 1} reference images, got {number} and {len(real)}: take more, or leave "
                "precision_recall out of --metrics"
            )
        real_radii = nearest(real, real.split(BLOCK), DENSITY_NEIGHBOURS + 1)
        inner, outer = real_radii[:, NEIGHBOURS], real_radii[:, DENSITY_NEIGHBOURS]
        sample_radii = nearest(samples, blocks_over_ranks(samples), NEIGHBOURS + 1)[:, NEIGHBOURS]
        is_realistic = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
        is_reached, is_covered = (torch.zeros(len(real), dtype=torch.bool, device=samples.device) for _ in range(2))
        num_within = torch.zeros((), dtype=torch.int64, device=samples.device)
        for rows, columns, distances in pairs(samples, real):
            is_realistic[rows] |= (distances <= inner[columns]).any(dim=1)
            is_reached[columns] |= (distances <= sample_radii[rows, None]).any(dim=0)
            within = distances < outer[columns]
            num_within += within.sum()
            is_covered[columns] |= within.any(dim=0)
        num_realistic, num_within = (int(all_reduce_sum(count)) for count in (is_realistic.sum(), num_within))
        reached, covered = (all_reduce_sum(flags.to(torch.int64)).gt(0) for flags in (is_reached, is_covered))
        return {
            "precision": num_realistic / number,
            "recall": reached.sum().item() / len(real),
            "density": num_within / (DENSITY_NEIGHBOURS * number),
            "coverage": covered.sum().item() / len(real),
        }
