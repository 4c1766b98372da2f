"""The largest batch of a training step that fits a GPU, found by doubling and bisection; images a second there."""

from collections.abc import Iterator

import torch

from benchmarks import subjects
from benchmarks.mixed_precision import MixedPrecision, training_kernels
from benchmarks.settings import Row, Settings, not_measured, unless_out_of_memory
from benchmarks.timing import interleaved

TITLE = "Largest batch of a training step"

PRECISION = "fp16"  # the published one, which every card has
RESOLUTION = 32  # batches are found to one part in so many


def measure(settings: Settings) -> Iterator[Row]:
    """One row for every model and kind of step."""
    if settings.device.type != "cuda":
        yield {"table": TITLE, "model": not_measured("needs a GPU, whose allocator can refuse")}
        return
    for case in subjects.cases(settings):
        for name in ("baseline", "none", "activations", "blocks"):
            make = subjects.make_plain if name == "baseline" else subjects.make_ours
            options = {} if name == "baseline" else {"recompute": name}
            steps = make(case, settings.device, **options)
            batch, row = largest(case, steps, name, settings), {"table": TITLE, "model": case.name, "step": name}
            if batch == 0:
                yield row | {"batch": 0}
                continue
            batch -= batch // 10  # timing may need a little more memory than finding
            precision = MixedPrecision(PRECISION, settings.device.type)
            step = _step(case, steps, name, batch, settings, precision)
            precision.settle(step)
            with training_kernels():
                seconds = interleaved({name: step}, settings.device, settings.repeats)[name].median
            yield row | {"batch": batch, "images / GPU s": batch / seconds}
            del steps, step
            torch.cuda.empty_cache()


def largest(case: subjects.Case, steps: object, name: str, settings: Settings) -> int:
    """The largest batch of which two steps fit, to one part in 32; 0 if not even one image does."""

    def fits(batch: int) -> bool:
        def two_steps() -> bool:  # the second one begins with the optimizers' state
            precision = MixedPrecision(PRECISION, settings.device.type)
            step = _step(case, steps, name, batch, settings, precision)
            precision.settle(step)
            step()
            torch.cuda.synchronize(settings.device)
            return True

        return bool(unless_out_of_memory(two_steps))

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // RESOLUTION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _step(
    case: subjects.Case, steps: object, name: str, batch: int, settings: Settings, precision: MixedPrecision
) -> object:
    pixels, images = subjects.loaded(batch, case.image_size, settings.device)
    return lambda: steps.step(images if name == "baseline" else pixels, precision)
