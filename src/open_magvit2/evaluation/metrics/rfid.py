"""Reconstruction FID: the Frechet distance between Inception features of originals and of their reconstructions.

Heusel et al. (2017), with the preprocessing of Open-MAGVIT2's published figures; the reference set are the evaluated
images themselves, in the same crop.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor

from open_magvit2.common import weights
from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.common.files import atomic_writer, sha256
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.frechet import Gaussian, Moments, frechet_distance
from open_magvit2.protocols import EvaluationBatch

logger = logging.getLogger(__name__)


class ReconstructionFID:
    """`rfid`, `rfid_u8` or `rfid_tf` over all images, in constant memory; the distance takes seconds on a CPU, once.

    Args:
        preprocessing: "paper" (rfid), "u8" or "tf", see `inception.Inception`.
        dataset_key: if not empty, the moments of the originals are kept in the cache folder under it, and a second run
            on the same images needs half the time. It must name the dataset's content and preprocessing. With it the
            constructor is a collective call under DDP.
    """

    weight_files = (weights.INCEPTION,)

    def __init__(self, preprocessing: inception.Preprocessing = "paper", dataset_key: str = "") -> None:
        self.name = "rfid" if preprocessing == "paper" else f"rfid_{preprocessing}"
        self.preprocessing = preprocessing
        self.network = inception.load()
        self._originals, self._outputs = (Moments(inception.NUM_FEATURES) for _ in range(2))
        self._path = _moments_path(dataset_key, preprocessing) if dataset_key else None
        kept = _read(self._path) if self._path else None
        # All ranks use the file, or none does: one that computes while another reads would wait for it forever.
        self._known = kept if all(all_gather_object(kept is not None)) else None

    def update(self, batch: EvaluationBatch) -> None:
        """Accumulate the features of the originals (unless their moments are known) and of the reconstructions."""
        if self._known is None:
            self._originals.update(self.network(batch.image, self.preprocessing).features)
        self._outputs.update(self.network(batch.output, self.preprocessing).features)

    def compute(self) -> dict[str, float]:
        """The distance over all ranks; a collective call under DDP.

        Raises:
            ValueError: with fewer than two images, or if the kept moments are of another number of images.
        """
        outputs = self._outputs.gaussian()
        originals = self._known or self._originals.gaussian()
        if originals.number != outputs.number:
            raise ValueError(
                f"the moments of {originals.number} originals are kept in {self._path}, but {outputs.number} images "
                "were reconstructed: delete that file"
            )
        if self._known is None and self._path is not None:
            self._known = originals
            if rank() == 0:
                _write(self._path, originals)
        return {self.name: frechet_distance(originals, outputs)}

    def reset(self) -> None:
        """Forget the images; moments of the originals read from or kept in the cache stay."""
        self._originals.reset()
        self._outputs.reset()


def _moments_path(dataset_key: str, preprocessing: str) -> Path:
    key = repr((dataset_key, preprocessing, weights.KNOWN[weights.INCEPTION].sha256))
    return weights.cache_folder() / "moments" / f"{sha256(key.encode())[:32]}.pt"


def _read(path: Path) -> Gaussian | None:
    if not path.is_file():
        return None
    try:
        return Gaussian(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file costs a recomputation, never the run
        logger.warning("cannot read the moments in %s (%s): they are computed again", path, error)
        return None


def _write(path: Path, gaussian: Gaussian) -> None:
    """Keep moments; a folder that cannot be written is no reason to lose the figure."""
    content = {name: x.cpu() if isinstance(x, Tensor) else x for name, x in gaussian._asdict().items()}
    try:
        with atomic_writer(path) as file:
            torch.save(content, file)
    except OSError as error:
        logger.warning("cannot keep the moments in %s: %s", path, error)
