"""A training step of the autoregressive generator against the plain baseline, by precision and recomputation."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from benchmarks.baseline_generator import PlainGeneratorTraining
from benchmarks.mixed_precision import MixedPrecision, Precision, why_not
from benchmarks.settings import Row, Settings, not_measured
from benchmarks.timing import clock_name, interleaved
from benchmarks.training_step import peak_of_step
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.autoregressive_training import AutoregressiveTraining
from open_magvit2.training.transformer_recomputation import TransformerRecomputation, set_transformer_recomputation

TITLE = "Training step of a generator"

LEVELS = get_args(TransformerRecomputation)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


class GeneratorCase(NamedTuple):
    """A generator on a grid of tokens of 6 + 12 bits."""

    name: str
    width: int
    num_spatial_blocks: int
    num_factorized_blocks: int
    batch: int
    grid: tuple[int, int] = (16, 16)

    def generator(self) -> AutoregressiveGenerator:
        """The same random weights at every call."""
        torch.manual_seed(0)
        blocks = {"num_spatial_blocks": self.num_spatial_blocks, "num_factorized_blocks": self.num_factorized_blocks}
        return AutoregressiveGenerator(grid=self.grid, width=self.width, num_heads=self.width // 64, **blocks)


SMALL = GeneratorCase("width 512, 8 + 2 blocks", 512, 8, 2, 4)
PUBLISHED = GeneratorCase("AR-B", 1024, 24, 2, 24)


class OurGeneratorTraining:
    """Steps of an `AutoregressiveTraining`; no logging, no loops."""

    def __init__(self, generator: AutoregressiveGenerator) -> None:
        self.training = AutoregressiveTraining(generator, micro_batch_size=2**20)
        self.optimizers = [self.training.configure_optimizers()]

    def step(self, indices: Tensor, labels: Tensor) -> dict[str, Any]:
        """One training step on indices int64 [B, N] and classes int64 [B] on the CPU; its terms."""
        batch = {"tokens": indices, "label": labels, "index": torch.arange(len(labels))}
        device = self.training.generator.norm.weight.device
        drawn = {name: value.to(device) for name, value in self.training.with_draws(batch, 0).items()}
        return self.training.train_on(drawn, self.optimizers[0])


def measure(settings: Settings) -> Iterator[Row]:
    """The baseline and ours at every level of recomputation, in turns, in float32 and in bfloat16 autocast."""
    case = PUBLISHED if settings.full else SMALL
    batch = settings.batch or case.batch
    for precision in PRECISIONS:
        table = f"{case.name}, {case.grid[0]} x {case.grid[1]} tokens, batch {batch}, {precision}"
        if reason := why_not(precision, settings.device):
            yield {"table": table, "step": not_measured(reason)}
        else:
            yield from ({"table": table, **row} for row in _rows(case, batch, precision, settings))


def _rows(case: GeneratorCase, batch: int, precision: Precision, settings: Settings) -> Iterator[Row]:
    device, surroundings = settings.device, MixedPrecision(precision, settings.device.type)
    generator = case.generator().to(device)
    ours, plain = OurGeneratorTraining(generator), PlainGeneratorTraining(copy.deepcopy(generator))
    indices, labels = tokens(case, batch)

    def at(level: TransformerRecomputation) -> Any:
        def step() -> None:
            set_transformer_recomputation(ours.training.generator, level)
            with surroundings.autocast():
                ours.step(indices, labels)

        return step

    def baseline() -> None:
        with surroundings.autocast():
            plain.step(indices.to(device), labels.to(device))

    functions = {"baseline": baseline}
    functions |= {f"ours, recompute {level}": at(level) for level in LEVELS}
    times = interleaved(functions, device, settings.repeats)
    peaks = {
        name: peak_of_step((plain if name == "baseline" else ours).optimizers, step, device)
        for name, step in functions.items()
    }
    first, unit = times["baseline"], clock_name(device)
    for name, time in times.items():
        yield {
            "step": name,
            f"step [{unit}]": time.median,
            "time ratio": first.median / time.median,
            "peak [MiB]": peaks[name].num_bytes / 2**20,
            "memory ratio": peaks["baseline"].num_bytes / peaks[name].num_bytes,
            "memory ratio with gradients": peaks["baseline"].with_resident / peaks[name].with_resident,
        }


def tokens(case: GeneratorCase, batch: int) -> tuple[Tensor, Tensor]:
    """Random indices int64 [batch, N] and classes int64 [batch] on the CPU."""
    stream = torch.Generator().manual_seed(1)
    indices = torch.randint(0, 2**18, (batch, case.grid[0] * case.grid[1]), generator=stream)
    return indices, torch.randint(0, 1000, (batch,), generator=stream)
