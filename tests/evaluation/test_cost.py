"""The figures of the reference's loop on real photos; how much less they cost is printed by this file as a program.

`PYTHONPATH=tests/evaluation python tests/evaluation/test_cost.py FOLDER` prints the profile in docs/evaluation.md.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.metrics
import torch
from PIL import Image
from plain_reference import BATCH_SIZE, PlainEvaluation, WeightSwap
from small_tokenizers import make_batch

from open_magvit2.common.codebook import CodeHistogram
from open_magvit2.common.images import to_float
from open_magvit2.evaluation import pixels
from open_magvit2.evaluation.features.frechet import Moments
from open_magvit2.evaluation.metrics import MetricContext, create
from open_magvit2.evaluation.metrics.psnr import mean_squared_error
from open_magvit2.evaluation.metrics.ssim import structural_similarity
from open_magvit2.evaluation.originals import make_transform

CODEBOOK_SIZE = 2**18
NAMES = ["psnr", "ssim", "l1", "codebook_usage", "clamp_fraction", "bits_per_pixel"]


def photos(root: Path, number: int, size: int = 256):
    """Real photos and blurred ones in the place of reconstructions, float in [-1, 1], and random indices."""
    paths = sorted(root.rglob("*.JPEG"))[:number]
    transform = make_transform("bilinear", size)
    image = to_float(torch.stack([transform(Image.open(path).convert("RGB"), None) for path in paths]))
    small = torch.nn.functional.interpolate(image, scale_factor=1 / 4, mode="bicubic", antialias=True)
    reconstruction = 1.01 * torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic")
    generator = torch.Generator().manual_seed(0)
    return image, reconstruction, torch.randint(CODEBOOK_SIZE, (number, size // 16, size // 16), generator=generator)


def cpu_ms(parts, number, repeats):
    """Median CPU milliseconds an image of each part, the parts taking turns."""
    taken = {name: [] for name in parts}
    for _ in range(repeats):
        for name, part in parts.items():
            begin = time.process_time()
            part()
            taken[name].append(1000 * (time.process_time() - begin) / number)
    return {name: statistics.median(times) for name, times in taken.items()}


def batches(data, size):
    return list(zip(*(part.split(size) for part in data), strict=True))


def plain(data):
    loop = PlainEvaluation(CODEBOOK_SIZE)
    for batch in batches(data, BATCH_SIZE):
        loop.batch(*batch)
    return loop


def update(metrics, data):
    """One batch, as tensors of its own: nothing is known of it from before."""
    batch = make_batch(*(part.view_as(part) for part in data))
    for metric in metrics.values():
        metric.update(batch)


def same_figures(data, histogram):
    """What the plain loop computes, our way."""
    image, reconstruction, indices = data
    cut = pixels.truncated(image.view_as(image), reconstruction)
    histogram.update(indices)
    return mean_squared_error(*cut), structural_similarity(*cut)


def test_the_figures_of_the_plain_loop(shared):
    data = photos(shared / "data" / "imagenet_mini" / "val", 8)
    metrics, _ = create(NAMES, MetricContext(CODEBOOK_SIZE))
    update(metrics, data)
    ours, theirs = {}, plain(data).figures()
    for metric in metrics.values():
        ours |= metric.compute()
    assert ours["psnr_batch4"] == pytest.approx(theirs["psnr_batch4"], abs=1e-5)  # theirs is in float32
    assert ours["ssim_paper"] == pytest.approx(theirs["ssim_paper"], abs=1e-5)
    assert ours["codebook_utilization"] == theirs["codebook_utilization"]


def main(root: Path, number: int = 16) -> None:
    """Print the profile."""
    torch.set_num_threads(1)
    data = photos(root, number)
    image, reconstruction, indices = data
    cut, features = pixels.truncated(image, reconstruction), torch.randn(2048, 2048)
    loop, histogram, moments = PlainEvaluation(CODEBOOK_SIZE), CodeHistogram(CODEBOOK_SIZE), Moments(2048)
    pairs = [tuple(loop.pixels(x) for x in batch[:2]) for batch in batches(data, BATCH_SIZE)]
    metrics, _ = create(NAMES, MetricContext(CODEBOOK_SIZE))

    def psnr_of_batches() -> None:
        for first, second in pairs:
            for _ in first:
                skimage.metrics.peak_signal_noise_ratio(first, second)

    def ssim_of_images() -> None:
        for first, second in (images for pair in pairs for images in zip(*pair, strict=True)):
            skimage.metrics.structural_similarity(first, second, channel_axis=-1, data_range=1.0)

    parts = {
        "reference: usage": lambda: loop.count(indices),
        "reference: PSNR": psnr_of_batches,
        "reference: SSIM": ssim_of_images,
        "reference: these three with conversions": lambda: plain(data),
        "ours: usage": lambda: histogram.update(indices),
        "ours: truncated pixels": lambda: pixels.truncated(image.view_as(image), reconstruction),
        "ours: PSNR of truncated pixels": lambda: mean_squared_error(*cut),
        "ours: SSIM of truncated pixels": lambda: structural_similarity(*cut),
        "ours: these three with conversions": lambda: same_figures(data, histogram),
        "ours: all figures of all metrics": lambda: update(metrics, data),
        **{f"  {name} alone": lambda m=metric: update({"": m}, data) for name, metric in metrics.items()},
    }
    for name, taken in cpu_ms(parts, number, repeats=9).items():
        print(f"{name:40} {taken:8.3f} ms")
    for name, taken in cpu_ms({"reference: weights": WeightSwap()}, BATCH_SIZE, repeats=5).items():
        print(f"{name:40} {taken:8.3f} ms")
    streams = {
        "reference: np.cov, two sets": lambda: np.cov(features.numpy(), rowvar=False),
        "ours: moments, two sets": lambda: moments.update(features),
    }
    for name, taken in cpu_ms(streams, len(features), repeats=3).items():
        print(f"{name:40} {2 * taken:8.3f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
