"""Whole training steps by precision: the baseline, ours, and on a GPU ours compiled with channels last."""

from collections.abc import Iterator

import torch

from benchmarks import subjects
from benchmarks.mixed_precision import PRECISIONS, MixedPrecision, training_kernels, why_not
from benchmarks.settings import OUT_OF_MEMORY, Row, Settings, not_measured, unless_out_of_memory
from benchmarks.timing import clock_name, interleaved
from benchmarks.training_step import peak_of_step

TITLE = "Training step by precision"

COMPILED = {"compiled": True, "channels_last": True}


def measure(settings: Settings) -> Iterator[Row]:
    """One row for every model, precision and kind of step."""
    for case in subjects.cases(settings) if settings.full else [subjects.TINY]:
        for precision in PRECISIONS:
            if reason := why_not(precision, settings.device):
                yield {"table": TITLE, "model": case.name, "precision": precision, "step": not_measured(reason)}
                continue
            yield from steps_of(case, precision, settings)


@training_kernels()
def steps_of(case: subjects.Case, precision: str, settings: Settings) -> Iterator[Row]:
    """The kinds of steps in one precision, in turns; one that does not fit the device says so."""
    device, batch = settings.device, settings.batch or (8 if settings.full else 2)
    pixels, images = subjects.loaded(batch, case.image_size, device)
    kinds = {"baseline": subjects.make_plain(case, device), "ours": subjects.make_ours(case, device)}
    if device.type == "cuda":
        kinds["ours, compiled, channels last"] = subjects.make_ours(case, device, **COMPILED)
    surroundings = {name: MixedPrecision(precision, device.type) for name in kinds}
    functions = {
        name: (lambda n=name, kind=kind: kind.step(images if n == "baseline" else pixels, surroundings[n]))
        for name, kind in kinds.items()
    }
    fitting = {name: step for name, step in functions.items() if unless_out_of_memory(lambda step=step: step() or True)}
    for name, step in fitting.items():
        surroundings[name].settle(step)
    times = interleaved(fitting, device, settings.repeats, warm_up=2) if fitting else {}
    unit = clock_name(device)
    for name in functions:
        row: Row = {"table": TITLE, "model": case.name, "precision": precision, "batch": batch, "step": name}
        if name not in times:
            yield row | {f"step [{unit}]": OUT_OF_MEMORY}
            continue
        peak = peak_of_step(kinds[name].optimizers, fitting[name], device)
        ratio = times["baseline"].median / times[name].median if "baseline" in times else None
        yield row | {
            f"step [{unit}]": times[name].median,
            f"images / {unit}": batch / times[name].median,
            "speed ratio": ratio,
            "peak [MiB]": peak.with_resident / 2**20,
        }
    torch._dynamo.reset()
