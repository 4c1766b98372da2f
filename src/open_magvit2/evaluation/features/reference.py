"""The reference of generated images: moments and features of real ones, from a file of them or from images.

OpenAI's guided-diffusion publishes such a file, VIRTUAL_imagenet256_labeled.npz: moments over the whole training set
(mu, sigma of pooled features; mu_s, sigma_s of spatial ones) and 10,000 images (arr_0) for precision and recall.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_magvit2.common import weights
from open_magvit2.common.accumulators import collective_device
from open_magvit2.common.distributed import all_gather_object, rank
from open_magvit2.common.files import atomic_writer, sha256, sha256_of
from open_magvit2.common.images import to_float
from open_magvit2.common.progress_bar import progress_bar
from open_magvit2.evaluation.features import inception
from open_magvit2.evaluation.features.frechet import Gaussian, Moments
from open_magvit2.evaluation.features.neighbours import blocks_over_ranks
from open_magvit2.evaluation.samples import ImageSet, array_names, open_images, whole

logger = logging.getLogger(__name__)

MOST_NEIGHBOURS = 10_000  # real images of precision and recall, as many as the published file has


@dataclass(frozen=True, eq=False)
class Reference:
    """The real side of every figure.

    Attributes:
        pooled: moments of the pooled features; the number is 0 where a file does not tell it.
        spatial: of the spatial ones; None where a file has none.
        features: float32 [R, 2048] pooled features of single images; None where there are moments alone.
        facts: for results.json.
    """

    pooled: Gaussian
    spatial: Gaussian | None
    features: Tensor | None
    facts: dict[str, Any]


def load_reference(
    path: str | Path, device: torch.device, with_features: bool = True, batch_size: int = 64, progress: bool = True
) -> Reference:
    """Read or measure a reference; a collective call under DDP. What is measured of images is kept in the cache folder.

    Args:
        path: an npz file with moments, images or both, or a folder of images.
        device: to compute features on.
        with_features: whether features of single images are needed.
        batch_size: images at once on each rank.
        progress: draw a progress bar on rank 0.

    Raises:
        ValueError: for a file with neither moments nor images, or with moments of another shape.
        FileNotFoundError: if there is nothing at the path.
    """
    path = Path(path).expanduser()
    keys = array_names(path) if path.suffix == ".npz" and path.is_file() else []
    if keys and not {"mu", "sigma"} <= set(keys) and "arr_0" not in keys:
        raise ValueError(
            f"{path}: expected moments under mu and sigma, or images under arr_0, got {', '.join(keys)}: take "
            "VIRTUAL_imagenet256_labeled.npz, an npz of images, or a folder"
        )
    moments = _read_moments(path, keys) if {"mu", "sigma"} <= set(keys) else None
    facts = {"path": str(path), "sha256": fingerprint(path), "num_images": None}
    measured = None
    if moments is None or (with_features and "arr_0" in keys):
        images = open_images(path)
        measured = _measure(images, device, batch_size, progress)
        facts["num_images"] = len(images)
    facts["moments"] = "of the file" if moments else "of its images"
    facts["num_neighbours_of"] = len(measured.features) if measured else None
    pooled, spatial = moments or (measured.pooled, measured.spatial)
    return Reference(pooled, spatial, measured.features if measured else None, facts)


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a reference's file, or over the names, sizes and contents of its images.

    Raises:
        FileNotFoundError: if there is nothing at the path.
    """
    path = Path(path).expanduser()
    return sha256_of(path) if path.is_file() else open_images(path).facts["fingerprint"]


def _read_moments(path: Path, keys: list[str]) -> tuple[Gaussian, Gaussian | None]:
    def read(mean_name: str, covariance_name: str, size: int) -> Gaussian:
        with whole(path), np.load(path) as file:
            mean, covariance = file[mean_name], file[covariance_name]
        expected = (size,), (size, size)
        if (mean.shape, covariance.shape) != expected or mean.dtype.kind != "f" or covariance.dtype.kind != "f":
            raise ValueError(
                f"{path}: expected {mean_name} [{size}] and {covariance_name} [{size}, {size}] of floats, got "
                f"{mean.dtype} {list(mean.shape)} and {covariance.dtype} {list(covariance.shape)}: are they of the "
                "2015 Inception?"
            )
        mean, covariance = (torch.from_numpy(value).to(torch.float64) for value in (mean, covariance))
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise ValueError(f"{path}: {mean_name} or {covariance_name} holds values that are not finite")
        return Gaussian(mean, covariance, 0)

    has_spatial = {"mu_s", "sigma_s"} <= set(keys)
    spatial = read("mu_s", "sigma_s", inception.NUM_SPATIAL_FEATURES) if has_spatial else None
    return read("mu", "sigma", inception.NUM_FEATURES), spatial


@torch.inference_mode()
def _measure(images: ImageSet, device: torch.device, batch_size: int, progress: bool) -> Reference:
    """Moments of all images, and the features of at most `MOST_NEIGHBOURS` of them, evenly spaced."""
    network = inception.load()
    kept = _read(_path(images), device)
    if all(all_gather_object(kept is not None)):
        return kept
    wanted = min(len(images), MOST_NEIGHBOURS)
    is_wanted = torch.zeros(len(images), dtype=torch.bool)
    is_wanted[torch.arange(wanted) * len(images) // wanted] = True
    pooled, spatial = Moments(inception.NUM_FEATURES), Moments(inception.NUM_SPATIAL_FEATURES)
    features = [torch.empty(0, inception.NUM_FEATURES, device=collective_device())]
    bar = progress_bar(desc="reference", unit="image", total=len(images), disable=not progress or rank() > 0)
    with bar:
        for index, pixels in images.batches(batch_size):
            output = network(to_float(pixels.to(device)), "tf")
            pooled.update(output.features)
            spatial.update(output.spatial)
            features.append(output.features[is_wanted[index].to(device)].to(features[0].device))
            bar.update(len(index))
    found = torch.cat(list(blocks_over_ranks(torch.cat(features)))).cpu()
    measured = Reference(pooled.gaussian(), spatial.gaussian(), found, {})
    if rank() == 0:
        _write(_path(images), measured)
    return measured


def _path(images: ImageSet) -> Path:
    key = repr((images.facts["fingerprint"], weights.KNOWN[weights.INCEPTION].sha256, "tf", MOST_NEIGHBOURS))
    return weights.cache_folder() / "references" / f"{sha256(key.encode())[:32]}.pt"


def _read(path: Path, device: torch.device) -> Reference | None:
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        pooled, spatial = (Gaussian(*content[name]) for name in ("pooled", "spatial"))
        return Reference(_to(pooled, device), _to(spatial, device), content["features"], {})
    except Exception as error:  # a damaged file costs a computation, never the run
        logger.warning("cannot read the features in %s (%s): they are computed again", path, error)
        return None


def _to(gaussian: Gaussian, device: torch.device) -> Gaussian:
    return Gaussian(*(x.to(device) if isinstance(x, Tensor) else x for x in gaussian))


def _write(path: Path, reference: Reference) -> None:
    """Keep what was measured; a folder that cannot be written is no reason to lose the figures."""
    content = {name: tuple(_to(getattr(reference, name), torch.device("cpu"))) for name in ("pooled", "spatial")}
    try:
        with atomic_writer(path) as file:
            torch.save({**content, "features": reference.features}, file)
    except OSError as error:
        logger.warning("cannot keep the features in %s: %s", path, error)
