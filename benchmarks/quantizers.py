"""Quantizers at equal bits: one small tokenizer trained on photos with each of them, measured on photos held out.

python -m benchmarks.quantizers --images data/imagenet/train --held-out data/imagenet/val --output quantizers.json

Everything but the quantizer is the same: networks, photos, their order, steps, learning rate. Each quantizer has the
loss weights of its own class. There is no LPIPS and no discriminator: the objective is L1 and the quantizer's losses.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import machine
from open_magvit2.common.files import write_atomically
from open_magvit2.common.images import to_float
from open_magvit2.data.decoding import read_rgb
from open_magvit2.data.image_files import find_images
from open_magvit2.data.transforms import ResizeCenterCrop
from open_magvit2.evaluation.metrics.codebook_usage import CodebookUsage
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.evaluation.metrics.ssim import SSIM
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.protocols import EvaluationBatch
from open_magvit2.quantizers.binary_spherical import BinarySphericalQuantizer
from open_magvit2.quantizers.finite_scalar import FiniteScalarQuantizer
from open_magvit2.quantizers.index_backprop import IndexBackpropagationQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.quantizers.residual import ResidualLookupFreeQuantizer
from open_magvit2.quantizers.vector import VectorQuantizer

NUM_BITS = 10  # a position of the grid, whatever the quantizer
QUANTIZERS: dict[str, Callable[[], nn.Module]] = {
    "LFQ": lambda: LookupFreeQuantizer(num_bits=NUM_BITS),
    "FSQ 8x8x4x4": lambda: FiniteScalarQuantizer(levels=(8, 8, 4, 4)),
    "BSQ": lambda: BinarySphericalQuantizer(num_bits=NUM_BITS),
    "VQ": lambda: VectorQuantizer(codebook_size=2**NUM_BITS, latent_channels=8),
    "VQ, EMA and restarts": lambda: VectorQuantizer(2**NUM_BITS, 8, ema_decay=0.99, restart_below=0.01),
    "IBQ": lambda: IndexBackpropagationQuantizer(codebook_size=2**NUM_BITS, latent_channels=32),
    "residual LFQ 2x5": lambda: ResidualLookupFreeQuantizer(num_bits=NUM_BITS // 2, num_levels=2),
}


class Training(NamedTuple):
    """The settings that all quantizers share; the networks are those of the debug configuration."""

    steps: int = 600
    batch: int = 8
    image_size: int = 48
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.9)
    channels: int = 8
    channel_multipliers: tuple[int, ...] = (1, 2, 2)
    num_residual_blocks: int = 1
    norm_groups: int = 8


def read_photos(folder: Path, image_size: int, limit: int | None = None) -> Tensor:
    """The first photos of a folder by name, uint8 [N, 3, image_size, image_size]: resized, centre crop."""
    transform, generator = ResizeCenterCrop(image_size), np.random.default_rng(0)
    return torch.stack([transform(read_rgb(file.path), generator) for file in find_images([folder])[:limit]])


def train(
    make_quantizer: Callable[[], nn.Module], photos: Tensor, seed: int, how: Training
) -> tuple[ImageTokenizer, float]:
    """A tokenizer trained on photos uint8 [N, 3, H, W], and the median CPU seconds of a step.

    The seed sets the initial weights and the order of the photos. A photo is flipped in half of the cases.
    """
    torch.manual_seed(seed)
    tokenizer = ImageTokenizer.convolutional(
        make_quantizer(), how.channels, how.channel_multipliers, how.num_residual_blocks, how.norm_groups
    )
    objective = GeneratorObjective(perceptual_weight=0.0)
    objective.use_weights_of(tokenizer.quantizer)
    optimizer = torch.optim.Adam(tokenizer.parameters(), how.learning_rate, how.betas)
    order = torch.Generator().manual_seed(seed)
    seconds = []
    for step in range(how.steps):
        start = time.process_time()
        chosen = photos[torch.randint(len(photos), (how.batch,), generator=order)]
        flipped = torch.rand(how.batch, generator=order) < 0.5
        image = to_float(torch.where(flipped[:, None, None, None], chosen.flip(-1), chosen))
        output = tokenizer(image)
        _, total, _ = objective(image, output.reconstruction, output.losses, step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return tokenizer.eval(), statistics.median(seconds)


def measure(tokenizer: ImageTokenizer, photos: Tensor, batch: int = 50) -> dict[str, float]:
    """PSNR, SSIM and codebook usage on photos uint8 [N, 3, H, W].

    Several indices a position are one index into all combinations, so that usage is counted in the same units.
    """
    metrics = {"psnr": PSNR(), "ssim": SSIM(), "usage": CodebookUsage(2**NUM_BITS)}
    for start in range(0, len(photos), batch):
        image = to_float(photos[start : start + batch])
        reconstruction, indices = tokenizer.reconstruct(image)
        if indices.ndim == 4:
            powers = tokenizer.codebook_size ** torch.arange(indices.shape[-1])
            indices = (indices * powers).sum(dim=-1)
        number = torch.arange(start, start + len(image))
        for metric in metrics.values():
            metric.update(EvaluationBatch(reconstruction, number, image, indices))
    figures = {name: value for metric in metrics.values() for name, value in metric.compute().items()}
    names = ("psnr_image", "ssim_image", "codebook_utilization", "codebook_entropy_bits")
    return {name: figures[name] for name in names}


def compare(
    images: Path, held_out: Path, seeds: int, how: Training, limit: int | None, report: Callable[[dict[str, Any]], None]
) -> None:
    """Train and measure every quantizer with every seed; `report` gets each result as soon as it is there."""
    photos, others = (read_photos(folder, how.image_size, limit) for folder in (images, held_out))
    for seed in range(seeds):
        for name, make_quantizer in QUANTIZERS.items():
            tokenizer, seconds = train(make_quantizer, photos, seed, how)
            report({"quantizer": name, "seed": seed, **measure(tokenizer, others), "cpu_seconds_a_step": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of photos to measure on")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of all measurements")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each quantizer")
    parser.add_argument("--steps", type=int, default=Training().steps)
    parser.add_argument("--batch", type=int, default=Training().batch)
    parser.add_argument("--image-size", type=int, default=Training().image_size)
    parser.add_argument("--limit", type=int, help="photos of each folder")
    args = parser.parse_args()
    how = Training(args.steps, args.batch, args.image_size)
    rows: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        content = {"machine": machine.device_name(torch.device("cpu")), "training": how._asdict(), "rows": rows}
        write_atomically(args.output, json.dumps(content, indent=1) + "\n")

    torch.set_num_threads(1)
    compare(args.images, args.held_out, args.seeds, how, args.limit, report)


if __name__ == "__main__":
    main()
