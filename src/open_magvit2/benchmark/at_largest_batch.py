"""Whole training steps at the largest batch that fits the device, by precision: images a second and MFU.

Each variant is alone on the device. For compiled steps no batch is looked for, since each one tried would be compiled
anew: they run at the batch that the same steps reach uncompiled, or a little below.
"""

from collections.abc import Iterator
from functools import partial

from open_magvit2.benchmark import models
from open_magvit2.benchmark.failures import OUT_OF_MEMORY, or_reason, then_raise, unless_out_of_memory
from open_magvit2.benchmark.largest_batch import largest
from open_magvit2.benchmark.mixed_precision import Precision
from open_magvit2.benchmark.precisions import Found, step_costs, tables
from open_magvit2.benchmark.settings import Row, Settings, not_measured
from open_magvit2.benchmark.variants import BASELINE, COMPILED, EAGER, OURS, Steps, Variant

TITLE = "Training step at the largest batch"

_TRIES = 3  # each on a batch a tenth smaller: timing may need a little more than finding, and compiled steps as well


def measure(settings: Settings) -> Iterator[Row]:
    """One row for every model, precision and variant, each as soon as it is known; on a GPU."""
    return then_raise(_rows(settings))


def _rows(settings: Settings) -> Iterator[Row]:
    if settings.device.type != "cuda":
        yield {"table": TITLE, "model": "all", "batch": not_measured("a CPU has no memory of its own to fill")}
        return
    for table in tables(TITLE, models.cases(settings), settings):
        if table.reason is not None:
            yield table.row("all", not_measured(table.reason))
            continue
        found: dict[Variant, Found | str] = {}
        for variant in (*EAGER, COMPILED):
            uncompiled = found.get(OURS)
            if variant.compiled and not isinstance(uncompiled, Found):
                found[variant] = not_measured("there is no batch of uncompiled steps to begin with")
            else:
                known = uncompiled.batch if variant.compiled else None
                run = partial(at_largest, variant, table.case, table.precision, settings, known)
                found[variant] = or_reason(run)
            name = f"{variant.name}, at the uncompiled batch" if variant.compiled else variant.name
            yield table.row(name, found[variant], found[BASELINE])


def at_largest(
    variant: Variant, case: models.Case, precision: Precision, settings: Settings, known: int | None = None
) -> Found | str:
    """A variant at its largest batch.

    Args:
        variant: alone on the device.
        case: the model.
        precision: of its networks.
        settings: device and repeats.
        known: the batch to begin with; None looks for it.

    Returns:
        what was found; or that not even one image fits; or down to which batch, after three, none did.
    """
    steps = Steps(variant, case, precision, settings.device)
    batch = largest(steps) if known is None else known
    smallest = batch
    for _ in range(_TRIES):
        if batch == 0:
            return OUT_OF_MEMORY
        found = unless_out_of_memory(partial(step_costs, [steps], batch, "alone", settings))
        if found is not None:
            return found[0]
        steps.start_again()
        smallest, batch = batch, batch * 9 // 10
    return OUT_OF_MEMORY if batch == 0 else f"{OUT_OF_MEMORY} down to batch {smallest}; fewer images were not tried"
