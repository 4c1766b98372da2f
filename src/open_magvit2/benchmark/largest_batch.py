"""The largest batch of a training step in 16, 32 and 80 GB: found by trying on a GPU, from a measured line on a CPU."""

import torch

from open_magvit2.benchmark import models
from open_magvit2.benchmark.settings import Row, Settings, not_measured
from open_magvit2.benchmark.training_step import peak_of_step
from open_magvit2.layers.recomputation import set_recomputation

TITLE = "Largest batch of a training step"

_CARDS = (16, 32, 80)  # GB
_USABLE = 0.92  # of a card: the rest is the driver's, cuDNN's and lost between blocks
_SMALLEST_SIZE = 32
_VARIANTS = ("baseline", "none", "activations", "blocks")  # the baseline, and ours by what it recomputes


def measure(settings: Settings) -> list[Row]:
    """One row for every model and variant."""
    if settings.device.type == "cuda":
        return [_tried(case, variant, settings) for case in models.cases(settings) for variant in _VARIANTS]
    return [_predicted(models.B_128, variant, settings) for variant in _VARIANTS]


def _make(case: models.Case, variant: str, settings: Settings) -> tuple[models.OurTraining | models.PlainTraining, str]:
    """A training and its name in the table."""
    if variant == "baseline":
        return models.make_plain(case, settings.device), "baseline"
    steps = models.make_ours(case, settings.device)
    set_recomputation(steps.training.tokenizer, variant)
    return steps, f"ours, recompute {variant}"


def _step(
    steps: models.OurTraining | models.PlainTraining, batch: int, case: models.Case, device: torch.device
) -> None:
    pixels = models.make_pixels(batch, case.image_size, device)
    steps.step(models.float_images(pixels) if isinstance(steps, models.PlainTraining) else pixels)


def _predicted(case: models.Case, variant: str, settings: Settings) -> Row:
    """From the peaks at batch 1 and 2: above the resident state they grow in proportion to the batch."""
    steps, name = _make(case, variant, settings)
    _step(steps, 1, case._replace(image_size=_SMALLEST_SIZE), settings.device)  # makes the optimizers' state
    optimizers = steps.optimizers
    peaks = [
        peak_of_step(optimizers, lambda batch=batch: _step(steps, batch, case, settings.device), settings.device)
        for batch in (1, 2)
    ]
    first, second = (peak.num_bytes for peak in peaks)
    slope = second - first
    weights = sum(
        p.numel() * 4 for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]
    )
    resident = 5 * weights  # weights, gradients, two moments, averages
    free = [_USABLE * card * 1e9 - resident - (first - slope) for card in _CARDS]
    return {
        "table": "Predicted for float32 from a line through the peaks at batch 1 and 2 on a CPU: not measured on a GPU",
        "model": case.name,
        "step": name,
        "MiB an image": slope / 2**20,
        **{f"in {card} GB": max(0, int(room // slope)) for card, room in zip(_CARDS, free, strict=True)},
    }


def _tried(case: models.Case, variant: str, settings: Settings) -> Row:
    """By bisection, with the process's share of the card's memory cut to the smaller card's."""
    total = torch.cuda.get_device_properties(settings.device).total_memory
    row: Row = {"table": "Found by trying, float32", "model": case.name, "step": _make_name(variant)}
    for card in _CARDS:
        if card * 1e9 > total * 1.08:  # an "80 GB" card has a little less
            row[f"in {card} GB"] = not_measured("this card is smaller")
            continue
        torch.cuda.set_per_process_memory_fraction(min(1.0, card * 1e9 / total), settings.device)
        try:
            row[f"in {card} GB"] = _largest(case, variant, settings)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, settings.device)
    return row


def _make_name(variant: str) -> str:
    return variant if variant == "baseline" else f"ours, recompute {variant}"


def _largest(case: models.Case, variant: str, settings: Settings) -> int:
    """The largest batch that fits; 0 if not even one image does."""

    def fits(batch: int) -> bool:
        try:
            steps, _ = _make(case, variant, settings)
            for _ in range(2):  # the second step has the optimizers' state from its beginning
                _step(steps, batch, case, settings.device)
            return True
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            steps = None
            torch.cuda.empty_cache()

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
