"""Sampling with the autoregressive generator against a plain loop: tokens a second and memory.

By batch, grid, width and precision. The plain loop has one precision, float32. On a CPU the seconds are those that all
threads computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from benchmarks.baseline_sampling import PlainSampler
from benchmarks.memory import peak_memory
from benchmarks.settings import Row, Settings
from benchmarks.timing import clock_name, interleaved
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.compiled import CompiledSampler
from open_magvit2.generators.drawing import SubTokenSampling
from open_magvit2.generators.sampling import Sampling, sample

TITLE = "Sampling with the autoregressive generator"
GUIDANCE = 4.0
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Case:
    """A model with sub-tokens of 6 and 12 bits, and how much of it is sampled.

    Attributes:
        width, num_spatial_blocks, num_factorized_blocks: of the model; heads are 64 wide.
        side: of the grid.
        batch: images; with guidance there are twice as many rows.
        num_tokens: of each image; None is all.
        precision: of ours; the plain loop runs where it is float32.
        is_compiled: measure the compiled step as well.
    """

    width: int = 512
    num_spatial_blocks: int = 8
    num_factorized_blocks: int = 2
    side: int = 16
    batch: int = 4
    num_tokens: int | None = None
    precision: str = "float32"
    is_compiled: bool = False

    def generator(self, device: torch.device) -> AutoregressiveGenerator:
        """Random weights: for speed any will do."""
        torch.manual_seed(0)
        sizes = (self.width, self.width // 64, self.num_spatial_blocks, self.num_factorized_blocks)
        model = AutoregressiveGenerator((6, 12), (self.side, self.side), 1000, *sizes)
        for head in model.heads:
            torch.nn.init.normal_(head.weight, 0.0, 0.02)
        return model.eval().requires_grad_(False).to(device, _DTYPES[self.precision])


SMALL = Case()
B = Case(1024, 24, 2, is_compiled=True)
_QUICK = (
    SMALL,
    replace(SMALL, precision="bfloat16"),
    replace(SMALL, batch=1, num_tokens=64),
    replace(SMALL, batch=16, num_tokens=64),
    replace(SMALL, side=8),
    replace(SMALL, side=32, num_tokens=128),
    replace(SMALL, width=256, num_tokens=64),
    replace(SMALL, width=1024, num_tokens=16),
)
_FULL = (
    *(replace(B, batch=batch, precision=name) for batch in (1, 16, 64) for name in ("float32", "bfloat16", "float16")),
    replace(B, batch=16, side=32, num_tokens=256, precision="bfloat16", is_compiled=False),
)


def measure(settings: Settings) -> Iterator[Row]:
    """One row a case: small models on a CPU, B at full size on a GPU."""
    for case in _FULL if settings.full else _QUICK:
        yield _row(case, settings)


def _row(case: Case, settings: Settings) -> Row:
    device = settings.device
    generator, labels = case.generator(device), torch.arange(case.batch, device=device)
    sampling, seeds = Sampling((SubTokenSampling(guidance=GUIDANCE),)), list(range(case.batch))
    number = generator.num_tokens if case.num_tokens is None else case.num_tokens
    # The plain loop reads the same weights; float32 copies where ours are of another precision.
    plain = PlainSampler(replace(case, precision="float32").generator(device), GUIDANCE)
    functions = {
        "ours": lambda: sample(generator, labels, seeds, sampling, number),
        "plain": lambda: plain.sample(labels, number),
    }
    if case.is_compiled:
        compiled = CompiledSampler(generator, case.batch)
        functions["compiled"] = lambda: compiled.generate(labels, seeds, sampling)
    times = interleaved(functions, device, settings.repeats)
    memory = {name: peak_memory(function, device).num_bytes for name, function in functions.items()}
    unit, tokens = clock_name(device), case.batch * number
    return {
        "table": TITLE,
        "width": case.width,
        "blocks": f"{case.num_spatial_blocks} + {case.num_factorized_blocks}",
        "grid": f"{case.side}x{case.side}",
        "batch": case.batch,
        "positions": number,
        "precision": case.precision,
        f"ours [tokens / {unit}]": tokens / times["ours"].median,
        f"compiled [tokens / {unit}]": tokens / times["compiled"].median if case.is_compiled else None,
        f"plain, float32 [tokens / {unit}]": tokens / times["plain"].median,
        "time ratio": times["plain"].median / min(time.median for name, time in times.items() if name != "plain"),
        "ours [MiB]": memory["ours"] / 2**20,
        "plain [MiB]": memory["plain"] / 2**20,
    }
