"""The largest batch of a training step in 16, 32 and 80 GB: found by trying on a GPU, from a measured line on a CPU."""

from collections.abc import Iterator
from functools import partial

import torch

from open_magvit2.benchmark import models
from open_magvit2.benchmark.failures import release, rows_or_reason, then_raise, unless_out_of_memory
from open_magvit2.benchmark.mixed_precision import Precision
from open_magvit2.benchmark.settings import Row, Settings, not_measured
from open_magvit2.benchmark.variants import EAGER, Steps, Variant

TITLE = "Largest batch of a training step"

_CARDS = (16, 32, 80)  # GB
_USABLE = 0.92  # of a card: the rest is the driver's, cuDNN's and lost between blocks
_SMALLEST_SIZE = 32  # of images
_VARIANTS = EAGER
_PRECISION: Precision = "fp16"  # on a GPU: the published one, which every card has
_RESOLUTION = 32  # batches are found to one part in so many
_FOUND = f"Found by trying, {_PRECISION}"
_PREDICTED = "Predicted for float32 from a line through the peaks at batch 1 and 2 on a CPU: not measured on a GPU"


def measure(settings: Settings) -> Iterator[Row]:
    """One row for every model and variant, each as soon as it is known."""
    return then_raise(_rows(settings))


def _rows(settings: Settings) -> Iterator[Row]:
    cuda = settings.device.type == "cuda"
    for case in models.cases(settings) if cuda or settings.full else [models.B_128]:
        for variant in _VARIANTS:
            one = partial(_tried if cuda else _predicted, case, variant, settings)
            labels = {"table": _FOUND if cuda else _PREDICTED, "model": case.name, "step": variant.name}
            yield from rows_or_reason(lambda one=one, labels=labels: [labels | one()], **labels)


def largest(steps: Steps, known: int = 0) -> int:
    """The largest batch that fits the device, to one part in 32; 0 if not even one image does.

    Without cuDNN's trials of algorithms, which take most of the time at a new size. They need no more memory: an
    algorithm without room for its scratch space is passed over.

    Args:
        steps: alone on the device. Its optimizers have their state afterwards.
        known: a batch that fits, to begin there.
    """

    def fits(batch: int) -> bool:
        def two_steps() -> bool:  # the second one has the optimizers' state from its beginning
            step = steps.on_batch(batch)
            steps.find_loss_scale(step)  # before which the baseline's optimizers may have skipped, and made no state
            for _ in range(2):
                step()
            if steps.device.type == "cuda":
                torch.cuda.synchronize(steps.device)
            return True

        done = unless_out_of_memory(two_steps)
        steps.start_again()
        torch.cuda.empty_cache()  # blocks of one batch's sizes are lost to the next
        return done is not None

    low, high = known, max(1, 2 * known)
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // _RESOLUTION):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _predicted(case: models.Case, variant: Variant, settings: Settings) -> Row:
    """From the peaks at batch 1 and 2: above the resident state they grow in proportion to the batch."""
    steps = Steps(variant, case, "fp32", settings.device)
    steps.on_batch(1, _SMALLEST_SIZE)()  # makes the optimizers' state
    first, second = (steps.peak(steps.on_batch(batch)).beyond_gradients for batch in (1, 2))
    slope = second - first
    groups = [group for optimizer in steps.training.optimizers for group in optimizer.param_groups]
    trained = sum(p.nbytes for group in groups for p in group["params"])
    modules = steps.training.modules()  # trained weights among the others
    held = sum(tensor.nbytes for tensor in (*modules.parameters(), *modules.buffers()))
    resident = held + 4 * trained  # gradients, two moments, averages
    free = [_USABLE * card * 1e9 - resident - (first - slope) for card in _CARDS]
    return {
        "MiB an image": slope / 2**20,
        **{f"in {card} GB": max(0, int(room // slope)) for card, room in zip(_CARDS, free, strict=True)},
    }


def _tried(case: models.Case, variant: Variant, settings: Settings) -> Row:
    """By bisection, with the process's share of the card's memory cut to the smaller card's.

    A card has some percent more than its name says, which is about what CUDA takes before anything is allocated.
    """
    total = torch.cuda.get_device_properties(settings.device).total_memory
    row: Row = {}
    steps = Steps(variant, case, _PRECISION, settings.device)
    batch = 0
    for card in _CARDS:
        if card * 1e9 > total * 1.08:  # an "80 GB" card may have a little less
            row[f"in {card} GB"] = not_measured("this card is smaller")
            continue
        release()
        torch.cuda.set_per_process_memory_fraction(min(1.0, card * 1e9 / total), settings.device)
        try:
            batch = row[f"in {card} GB"] = largest(steps, batch)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, settings.device)
    return row
