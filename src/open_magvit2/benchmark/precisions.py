"""Whole training steps by precision, at a device's published batch or another: time, memory, share of the peak (MFU).

Timed in turns: the baseline and ours at every level of recomputation, in float32 (TF32 where a GPU has it), bfloat16
and float16. Ours compiled and with channels last comes after them, alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from open_magvit2.benchmark import flops, models, peaks
from open_magvit2.benchmark.failures import or_reason, then_raise
from open_magvit2.benchmark.mixed_precision import PRECISIONS, Precision, training_kernels, why_not
from open_magvit2.benchmark.settings import Row, Settings, not_measured
from open_magvit2.benchmark.timing import clock_name, interleaved
from open_magvit2.benchmark.training_step import StepPeak
from open_magvit2.benchmark.variants import BASELINE, COMPILED, EAGER, OURS, Steps, Variant

TITLE = "Training step by precision"

_FULL_BATCH, _SMALL_BATCH = 8, 2


class Found(NamedTuple):
    """What was measured of a variant."""

    batch: int
    seconds: float  # of a step
    peak: StepPeak  # with gradients on any device; beyond them on a CPU alone
    loss_scale: float | None
    timed: str  # beside what


def measure(settings: Settings) -> Iterator[Row]:
    """One row for every model, precision and variant, each as soon as it is known."""
    return then_raise(_rows(settings))


def _rows(settings: Settings) -> Iterator[Row]:
    batch = settings.batch or (_FULL_BATCH if settings.full else _SMALL_BATCH)
    eager = EAGER if settings.full else (BASELINE, OURS)
    for table in tables(TITLE, models.cases(settings) if settings.full else [models.TINY], settings):
        if table.reason is not None:
            yield table.row("all", not_measured(table.reason))
            continue
        found = side_by_side(eager, table.case, table.precision, batch, settings)
        yield from (table.row(variant.name, found[variant], found[BASELINE]) for variant in eager)
        if settings.device.type == "cuda":
            compiled = alone(COMPILED, table.case, table.precision, batch, settings)
        else:
            compiled = not_measured("compiling takes minutes on a CPU")
        yield table.row(COMPILED.name, compiled, found[BASELINE])


def side_by_side(
    variants: Sequence[Variant], case: models.Case, precision: Precision, batch: int, settings: Settings
) -> dict[Variant, Found | str]:
    """Variants in turns, the weights of all on the device at once; where that fails, each of them alone.

    Returns:
        what was found, or for a variant that fails even alone, why.
    """

    def together() -> list[Found]:
        steps = [Steps(variant, case, precision, settings.device) for variant in variants]
        return step_costs(steps, batch, "in turns", settings)

    found = or_reason(together)
    if isinstance(found, str):
        found = [alone(variant, case, precision, batch, settings) for variant in variants]
    return dict(zip(variants, found, strict=True))


def alone(variant: Variant, case: models.Case, precision: Precision, batch: int, settings: Settings) -> Found | str:
    """A variant by itself, or why it could not be measured."""

    def run() -> Found:
        return step_costs([Steps(variant, case, precision, settings.device)], batch, "alone", settings)[0]

    return or_reason(run)


def step_costs(steps: Sequence[Steps], batch: int, timed: str, settings: Settings) -> list[Found]:
    """Time, in turns, and memory of steps on batches of a size.

    Args:
        steps: of variants.
        batch: images of a step.
        timed: how, for the table.
        settings: device and repeats.
    """
    functions = {one.variant.name: one.on_batch(batch) for one in steps}
    warm_up = 2 if settings.device.type == "cuda" else 1  # compilation and cuDNN's trials, then a first step without
    with training_kernels():
        for one in steps:
            one.find_loss_scale(functions[one.variant.name])
        times = interleaved(functions, settings.device, settings.repeats, warm_up)
        memory = {one.variant.name: one.peak(functions[one.variant.name]) for one in steps}
    return [
        Found(batch, times[one.variant.name].median, memory[one.variant.name], one.loss_scale, timed) for one in steps
    ]


def step_operations(case: models.Case, settings: Settings) -> int:
    """Operations an image that the recipe needs: of our step without recomputation, whatever is measured."""
    step = Steps(OURS, case, "fp32", settings.device).on_batch(1)
    return flops.count(step)


class Table(NamedTuple):
    """What the rows of one model in one precision share."""

    title: str
    case: models.Case
    precision: Precision
    operations: int  # an image
    settings: Settings

    @property
    def reason(self) -> str | None:
        """Why this precision is not measured here, or None where it is."""
        return why_not(self.precision, self.settings.device)

    def row(self, name: str, found: Found | str, baseline: Found | str | None = None) -> Row:
        """A variant's row.

        Args:
            name: of the variant.
            found: its figures, or why there are none.
            baseline: the baseline's in the same precision. Ratios are of images a second and of memory an image.
        """
        unit = clock_name(self.settings.device)
        row: Row = {"table": self.title, "model": self.case.name, "precision": self.precision, "step": name}
        if isinstance(found, str):
            return row | {"batch": found}
        rate = found.batch / found.seconds
        compared = isinstance(baseline, Found)
        peak, source = peaks.peak(self.settings.device, self.precision)
        return row | {
            "batch": found.batch,
            f"step [{unit}]": found.seconds,
            f"images / {unit}": rate,
            "speed ratio": rate / (baseline.batch / baseline.seconds) if compared else None,
            **_memory(found, baseline if compared else None),
            "MFU [%]": 100 * rate * self.operations / peak if peak else "unknown",
            "peak rate from": source,
            "loss scale": found.loss_scale,
            "timed": found.timed,
        }


def tables(title: str, cases: Sequence[models.Case], settings: Settings) -> Iterator[Table]:
    """One for every model and precision."""
    for case in cases:
        operations = step_operations(case, settings)
        yield from (Table(title, case, precision, operations, settings) for precision in PRECISIONS)


def _memory(found: Found, baseline: Found | None) -> Row:
    """Peaks, and their ratios an image: with gradients, and beyond them where that was measured."""
    row: Row = {}
    for gradients in ("with gradients", "beyond gradients"):
        peak = found.peak.columns().get(gradients)
        if peak is not None:
            row[f"peak {gradients} [MiB]"] = peak / 2**20
            compared = baseline and baseline.peak.columns()[gradients] / baseline.batch * found.batch / peak
            row[f"memory ratio {gradients}"] = compared
    return row
