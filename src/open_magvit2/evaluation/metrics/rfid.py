"""Reconstruction FID: the Frechet distance between Inception features of originals and of their reconstructions.

Heusel et al. (2017), with the preprocessing of Open-MAGVIT2's published figures; the reference set are the evaluated
images themselves, in the same crop.
"""

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from open_magvit2.common import weights
from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.evaluation import inception
from open_magvit2.evaluation.frechet import Gaussian, Moments, frechet_distance
from open_magvit2.evaluation.inception import NUM_FEATURES, Preprocessing
from open_magvit2.evaluation.metrics import MetricContext

logger = logging.getLogger(__name__)


class ReconstructionFID:
    """rFID over all images, in constant memory; the distance itself takes seconds on a CPU, once.

    Args:
        name: of the figure.
        preprocessing: of the images, see `inception.Inception`.
        dataset_key: if not empty, the originals' moments are kept in the cache folder under it, and a second run on the
            same images needs half the time. It must name the dataset's content and preprocessing. With it the
            constructor is a collective call under DDP.
    """

    weight_files = (weights.INCEPTION,)

    def __init__(self, name: str = "rfid", preprocessing: Preprocessing = "paper", dataset_key: str = "") -> None:
        self.name = name
        self.preprocessing: Preprocessing = preprocessing
        self.network = inception.load()
        self._originals = Moments(NUM_FEATURES)
        self._reconstructions = Moments(NUM_FEATURES)
        self._path = _moments_path(dataset_key, preprocessing) if dataset_key else None
        found = _read(self._path) if self._path else None
        # All ranks use the file, or none does: one that computes while another reads would wait for it forever.
        self._known = found if all(all_gather_object(found is not None)) else None

    def update(self, image: Tensor, reconstruction: Tensor, indices: Tensor, sample_index: Tensor) -> None:
        """Take the features of a batch of originals (unless they are known) and of reconstructions."""
        if self._known is None:
            self._originals.update(self.network(image, self.preprocessing).features)
        self._reconstructions.update(self.network(reconstruction, self.preprocessing).features)

    def compute(self) -> dict[str, float]:
        """The distance over all ranks; a collective call under DDP.

        Raises:
            ValueError: with fewer than two images, or if the kept moments are of another number of images.
        """
        reconstructions = self._reconstructions.gaussian()
        originals = self._known or self._originals.gaussian()
        if originals.number != reconstructions.number:
            raise ValueError(
                f"the moments of {originals.number} originals are kept in {self._path}, but "
                f"{reconstructions.number} images were reconstructed: delete that file"
            )
        if self._known is None and self._path is not None:
            self._known = originals
            if rank() == 0:
                _write(self._path, originals)
        return {self.name: frechet_distance(originals, reconstructions)}

    def reset(self) -> None:
        """Forget the images; moments of the originals read from or kept in the cache stay."""
        self._originals.reset()
        self._reconstructions.reset()


def _moments_path(dataset_key: str, preprocessing: str) -> Path:
    """Where the moments of a dataset under a preprocessing and the network's weights are kept."""
    parts = (dataset_key, preprocessing, weights.KNOWN[weights.INCEPTION].sha256)
    return weights.cache_folder() / "moments" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.pt"


def _read(path: Path) -> Gaussian | None:
    """Kept moments, or None if there are none that can be read."""
    if not path.is_file():
        return None
    try:
        return Gaussian(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file costs a recomputation, never the run
        logger.warning("cannot read the moments in %s (%s): they are computed again", path, error)
        return None


def _write(path: Path, gaussian: Gaussian) -> None:
    """Keep moments; a folder that cannot be written is no reason to lose the figure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            content = {"mean": gaussian.mean.cpu(), "covariance": gaussian.covariance.cpu(), "number": gaussian.number}
            torch.save(content, file)
        os.replace(file.name, path)
    except OSError as error:
        logger.warning("cannot keep the moments in %s: %s", path, error)


def create(context: MetricContext) -> ReconstructionFID:
    return ReconstructionFID(dataset_key=context.dataset_key)
