"""How our training step grows with resolution and with the batch: time and memory, and the exponent of each."""

import math

from open_magvit2.benchmark import models
from open_magvit2.benchmark.failures import fits
from open_magvit2.benchmark.mixed_precision import training_kernels
from open_magvit2.benchmark.settings import Row, Settings
from open_magvit2.benchmark.timing import clock_name, interleaved
from open_magvit2.benchmark.training_step import peak_of_step

TITLE = "Growth of a training step"

_FULL = {"resolution": (64, 128, 256, 512), "batch": (1, 2, 4, 8, 16, 32)}
_SMALL = {"resolution": (32, 64), "batch": (1, 4)}
_SMALL_SIZE, _FULL_SIZE, _FULL_BATCH = 32, 128, 4


@training_kernels()
def measure(settings: Settings) -> list[Row]:
    """Two tables of the first model; the exponent e of a row: the figure grew as size^e since the row before."""
    case = models.cases(settings)[0] if settings.full else models.B_128
    steps = models.make_ours(case, settings.device)
    sizes = _FULL if settings.full else _SMALL
    fixed_batch, fixed_size = (_FULL_BATCH, _FULL_SIZE) if settings.full else (1, _SMALL_SIZE)
    tables = {
        f"{case.name} by resolution, batch {fixed_batch}": [(s, s, fixed_batch, s * s) for s in sizes["resolution"]],
        f"{case.name} by batch, {fixed_size} px": [(b, fixed_size, b, b) for b in sizes["batch"]],
    }
    return [row for title, cases in tables.items() for row in _table(title, cases, steps, settings)]


def _table(
    title: str, cases: list[tuple[int, int, int, int]], steps: models.OurTraining, settings: Settings
) -> list[Row]:
    """Rows of (label, image size, batch, what the exponent is of: pixels or images) that fit the device."""
    unit = clock_name(settings.device)
    batches = {label: models.make_pixels(batch, size, settings.device) for label, size, batch, _ in cases}
    functions = {label: lambda pixels=pixels: steps.step(pixels) for label, pixels in batches.items()}
    functions = {label: function for label, function in functions.items() if fits(function, settings.device)}
    cases = [case for case in cases if case[0] in functions]
    times = interleaved(functions, settings.device, settings.repeats)
    gradients = "beyond gradients" if settings.device.type == "cpu" else "with gradients"
    memory = f"MiB {gradients}"
    rows: list[Row] = []
    for i, (label, _, _, amount) in enumerate(cases):
        peak = peak_of_step(steps.optimizers, functions[label], settings.device).columns()[gradients]
        row = {
            "table": title,
            "resolution" if "resolution" in title else "batch": label,
            unit: times[label].median,
            memory: peak / 2**20,
        }
        for figure in (unit, memory):
            grown = math.log(row[figure] / rows[-1][figure]) / math.log(amount / cases[i - 1][3]) if rows else None
            row[f"exponent of {figure}"] = grown
        rows.append(row)
    return rows
