"""First-batch checks: name a wrong model, range or order in seconds, before hours are spent on a wrong number.

A file that loads into the wrong model, images in [0, 1] for [-1, 1] or shuffled pairs all give plausible figures (rFID
10 and PSNR 6, say). Each of these mistakes is found by trying its inverse.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from open_magvit2.common.errors import UserError
from open_magvit2.common.images import psnr
from open_magvit2.common.precision import float32
from open_magvit2.evaluation.features.frechet import frechet_distance, gaussian_of
from open_magvit2.evaluation.metrics.rfid import ReconstructionFID
from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.evaluation.pixels import image_by_image
from open_magvit2.protocols import EvaluationBatch, Metric, Tokenizer

_MARGIN_DECIBELS = 3.0  # PSNR above that of the mean colour: less is worth no more than a grey square
_OF_IDENTICAL_IMAGES = {"ssim_image": 1.0, "lpips_alex": 0.0, "lpips_vgg": 0.0, "l1": 0.0, "mse": 0.0}

_MISTAKES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "negative": ("the reconstruction is the negative of the image: a sign is wrong", lambda x: -x),
    "bgr": ("red and blue are swapped: the model was trained on BGR images, or is fed with them", lambda x: x.flip(1)),
    "mirrored": ("the reconstruction is mirrored left to right", lambda x: x.flip(3)),
    "transposed": ("height and width are swapped", lambda x: x.transpose(2, 3)),
    "unit_range": ("the reconstruction is in [0, 1], not in [-1, 1]", lambda x: 2.0 * x - 1.0),
    "pixel_range": ("the reconstruction is in [0, 255], not in [-1, 1]", lambda x: x / 127.5 - 1.0),
}


class SanityError(UserError):
    """The first batch shows that the figures of the whole run would be worthless."""


@dataclass
class Sanity:
    """Findings of the checks; `warnings` and `errors` name likely causes in words."""

    finite: bool = True  # all reconstructions are
    clamp_fraction: float = 0.0  # share of their values outside [-1, 1]
    psnr: float = 0.0  # mean over the images, of the clamped reconstructions
    psnr_vs_mean_image_db: float = 0.0  # that, minus the PSNR of a plain square in the mean colour of the batch
    pair_match: float = 0.0  # share of reconstructions whose nearest original is their own
    likely_cause: str = ""  # key of the explanation, where a check failed and one was found
    indices_in_range: bool = True  # all are in [0, codebook_size)
    indices_roundtrip: bool | None = None  # decoding them gives the reconstruction; None where it could not be tried
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@torch.no_grad()
def check_first_batch(tokenizer: Tokenizer, image: Tensor) -> Sanity:
    """Reconstruct images float [B, 3, H, W] in [-1, 1] and look for the known mistakes; eight or more tell most."""
    sanity = Sanity()
    with float32(image.device.type):
        reconstruction, indices = image_by_image(tokenizer.reconstruct, image)
        reconstruction = reconstruction.to(torch.float32)
        sanity.finite = bool(reconstruction.isfinite().all())
        if reconstruction.shape != image.shape:
            shapes = f"{tuple(reconstruction.shape)} of images {tuple(image.shape)}"
            sanity.errors.append(f"the tokenizer made {shapes}: it takes sizes of {tokenizer.size_rule}")
        elif not sanity.finite:
            sanity.errors.append("reconstructions are not finite: damaged weights, or an overflow in float16")
        else:
            if indices is not None:
                _check_indices(sanity, tokenizer, reconstruction, indices)
            _check_pairs(sanity, image, reconstruction)
    return sanity


@torch.no_grad()
def check_metrics(metrics: dict[str, Metric], image: Tensor) -> list[str]:
    """Let the metrics compare images float [B, 3, H, W] with themselves: SSIM must be 1, LPIPS and rFID 0.

    Returns:
        a sentence for every figure that is not; the metrics' own states are left alone.
    """
    wrong: list[str] = []
    number = torch.arange(len(image), device=image.device)
    batch = EvaluationBatch(image, number, image, torch.zeros_like(number)[:, None])
    for metric in metrics.values():
        if isinstance(metric, PerImageMetric):
            for name, values in metric.measure(batch).items():
                expected = _OF_IDENTICAL_IMAGES.get(name)
                if expected is not None and bool((values - expected).abs().max() > 1e-6):
                    wrong.append(f"{name} of identical images is {values.mean().item():.6g}, not {expected:g}")
        elif isinstance(metric, ReconstructionFID) and len(image) > 1:
            itself = gaussian_of(metric.network(image, metric.preprocessing).features)
            distance = frechet_distance(itself, itself)
            if not distance <= 1e-6 * max(1.0, itself.covariance.trace().item()):
                wrong.append(f"{metric.name} of identical images is {distance:.6g}, not 0")
    return [f"{sentence}: wrong metric weights, or a faulty linear algebra library" for sentence in wrong]


def check_utilization(utilization: float, num_tokens: int) -> list[str]:
    """A warning if almost no codes are used over many tokens."""
    if utilization >= 0.01 or num_tokens <= 1_000_000:
        return []
    return [f"{utilization:.2%} of the codes are used by {num_tokens:,} tokens: a collapsed codebook or wrong weights"]


def _check_indices(sanity: Sanity, tokenizer: Tokenizer, reconstruction: Tensor, indices: Tensor) -> None:
    """Indices in range, and decoding them gives what decoding the codes gave."""
    lowest, highest = int(indices.min()), int(indices.max())
    sanity.indices_in_range = lowest >= 0 and highest < tokenizer.codebook_size
    if not sanity.indices_in_range:
        beyond = f"indices from {lowest} to {highest} are outside [0, {tokenizer.codebook_size})"
        sanity.errors.append(f"{beyond}: the codebook size is not the model's")
        return
    (decoded,) = image_by_image(lambda part: (tokenizer.detokenize(part).to(torch.float32),), indices)
    if decoded.shape != reconstruction.shape:
        return  # reconstruct() pads and crops: nothing to compare with
    error = (decoded - reconstruction).abs().max().item()
    sanity.indices_roundtrip = error <= 1e-4
    if not sanity.indices_roundtrip:
        sanity.errors.append(
            f"decoding the indices gives another image than reconstruct() (difference up to {error:.3g}): the bits of "
            "an index are written in one order and read in another, or the two use different weights"
        )


def _check_pairs(sanity: Sanity, image: Tensor, reconstruction: Tensor) -> None:
    """Whether the reconstructions resemble their originals, and if not, what would make them."""
    sanity.clamp_fraction = (reconstruction.abs() > 1.0).float().mean().item()
    sanity.psnr = _psnr(image, reconstruction)
    baseline = _psnr(image, image.mean(dim=(0, 2, 3), keepdim=True).expand_as(image))
    sanity.psnr_vs_mean_image_db = sanity.psnr - baseline
    # Distance of every reconstruction to every original [B, B], without a matrix product: equal originals are equally
    # far. A dataset may hold a picture twice, so a reconstruction's own original need not be the only nearest one.
    originals = image.flatten(1)
    rows = reconstruction.clamp(-1.0, 1.0).flatten(1)
    distances = torch.stack([(row - originals).square().mean(dim=1) for row in rows])
    sanity.pair_match = (distances.diagonal() <= distances.min(dim=1).values).float().mean().item()
    if sanity.clamp_fraction > 0.2:
        share = f"{sanity.clamp_fraction:.0%} of the reconstructed values lie outside [-1, 1]"
        sanity.warnings.append(f"{share}: another value range?")
    cause, text, undone_psnr = _best_explanation(image, reconstruction, distances.argmin(dim=1))
    if undone_psnr > max(sanity.psnr, baseline) + _MARGIN_DECIBELS:
        sanity.likely_cause = cause
        sanity.errors.append(f"{text} (undoing that raises PSNR from {sanity.psnr:.1f} to {undone_psnr:.1f} dB)")
        return
    mismatched = sanity.pair_match < 0.8
    if mismatched or sanity.psnr_vs_mean_image_db < _MARGIN_DECIBELS:
        # One to three pictures may be flatter than any tokenizer is good.
        (sanity.errors if mismatched or len(image) > 3 else sanity.warnings).append(
            f"reconstructions do not resemble their originals: PSNR {sanity.psnr:.1f} dB, "
            f"{sanity.psnr_vs_mean_image_db:+.1f} dB against a plain mean colour, {sanity.pair_match:.0%} of them "
            "nearest to their own original. Wrong or untrained weights, or EMA weights that were never filled?"
        )
    if len(image) < 2:
        sanity.warnings.append("one image in the first batch: whether pairs are shuffled cannot be told")


def _best_explanation(image: Tensor, reconstruction: Tensor, nearest: Tensor) -> tuple[str, str, float]:
    """The mistake whose inverse brings the reconstructions closest to their originals: key, description, PSNR then."""
    candidates = {key: (text, undo(reconstruction)) for key, (text, undo) in _MISTAKES.items()}
    if len(nearest.unique()) == len(image):
        text = "reconstructions are paired with the wrong originals: the order changed on the way"
        candidates["shuffled"] = (text, reconstruction[nearest.argsort()])
    # Last, so that the named causes win where they explain it equally well: any scale and offset, by least squares.
    x, y = reconstruction.to(torch.float64), image.to(torch.float64)
    scale = (((x - x.mean()) * (y - y.mean())).mean() / x.var(correction=0).clamp_min(1e-12)).item()
    offset = (y.mean() - scale * x.mean()).item()
    text = f"the reconstruction has another value range: {scale:.3g} x + {offset:.3g} fits the images"
    candidates["range"] = (text, scale * reconstruction + offset)
    scores = {key: _psnr(image, undone) for key, (_, undone) in candidates.items() if undone.shape == image.shape}
    best = max(scores, key=lambda key: scores[key] - (_MARGIN_DECIBELS if key == "range" else 0.0))
    return best, candidates[best][0], scores[best]


def _psnr(image: Tensor, reconstruction: Tensor) -> float:
    """Mean over images of the PSNR in dB of floats in [-1, 1], the reconstruction clamped; at most 100."""
    error = (image - reconstruction.clamp(-1.0, 1.0)).square().flatten(1).mean(dim=1).clamp_min(4e-10)
    return psnr(error, 2.0).mean().item()
