"""A whole training step against the plain baseline: time by part and by batch, peak memory by part."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from open_magvit2.benchmark import models, step_parts
from open_magvit2.benchmark.failures import OUT_OF_MEMORY, fits, release, unless_out_of_memory
from open_magvit2.benchmark.memory import ELSEWHERE, parts, peak_memory
from open_magvit2.benchmark.mixed_precision import training_kernels
from open_magvit2.benchmark.models import Case
from open_magvit2.benchmark.settings import Row, Settings
from open_magvit2.benchmark.timing import Timing, clock_name, interleaved
from open_magvit2.training.recomputation import set_recomputation

TITLE = "Training step"

logger = logging.getLogger(__name__)

_FULL_BATCHES, _SMALL_BATCHES = (1, 2, 4, 8, 16, 32), (2,)
_SPLIT_BATCH, _SMALL_SPLIT_BATCH = 8, 2


class StepPeak(NamedTuple):
    """The fullest moment of a step: bytes above the resident state, which is weights, optimizers and averages."""

    with_gradients: int  # as after `zero_grad(set_to_none=True)`: they grow in the backward pass
    beyond_gradients: int | None  # as where they stay from step to step, like DDP's; a CPU alone tells tensors apart
    by_part: dict[str, int]  # of `beyond_gradients`, which they add up to

    def columns(self) -> dict[str, int]:
        """The peaks that were measured, by what is said of them in the head of a column."""
        measured = {"with gradients": self.with_gradients, "beyond gradients": self.beyond_gradients}
        return {name: peak for name, peak in measured.items() if peak is not None}


def measure(settings: Settings) -> Iterator[Row]:
    """Three tables: by batch, by part, memory by part."""
    for case in models.cases(settings):
        ours, plain = models.make_ours(case, settings.device), models.make_plain(case, settings.device)
        batches, split_batch = _batches(settings)
        for batch in batches:
            yield _whole(case, ours, plain, batch, settings)
        for table in (_by_part, _memory_by_part):
            rows = unless_out_of_memory(partial(table, case, ours, plain, split_batch, settings))
            if rows is None:
                logger.warning("%s, batch %d does not fit the device: no table by part", case.name, split_batch)
            yield from rows or []
        del ours, plain
        release()


def _batches(settings: Settings) -> tuple[Sequence[int], int]:
    """Those of whole steps, and that of the tables by part."""
    if settings.batch is not None:
        return (settings.batch,), settings.batch
    return (_FULL_BATCHES, _SPLIT_BATCH) if settings.full else (_SMALL_BATCHES, _SMALL_SPLIT_BATCH)


@training_kernels()
def _whole(case: Case, ours: Any, plain: Any, batch: int, settings: Settings) -> Row:
    pixels, images = models.loaded(batch, case.image_size, settings.device)
    functions = {"ours": lambda: ours.step(pixels), "plain": lambda: plain.step(images)}
    functions = {name: step for name, step in functions.items() if fits(step, settings.device)}
    times = interleaved(functions, settings.device, settings.repeats) if functions else {}
    optimizers = {"ours": ours.optimizers, "plain": plain.optimizers}
    memory = {name: peak_of_step(optimizers[name], step, settings.device) for name, step in functions.items()}
    both = len(times) == 2
    unit = clock_name(settings.device)
    return {
        "table": "Whole step by batch",
        "model": case.name,
        "batch": batch,
        f"ours [{unit}]": times["ours"].median if "ours" in times else OUT_OF_MEMORY,
        f"baseline [{unit}]": times["plain"].median if "plain" in times else OUT_OF_MEMORY,
        "time ratio": times["plain"].median / times["ours"].median if both else None,
        **(_system(times) if both and settings.device.type == "cpu" else {}),
        f"ours [images / {unit}]": batch / times["ours"].median if "ours" in times else None,
        **_peaks(memory.get("ours"), memory.get("plain")),
    }


def _system(times: Mapping[str, Timing]) -> Row:
    """How much of the time the kernel took, clearing new pages of memory: a GPU's allocator keeps its pages."""
    computing = {name: timing.median - timing.system for name, timing in times.items()}
    return {
        "ours, of it the system [CPU s]": times["ours"].system,
        "baseline, of it the system [CPU s]": times["plain"].system,
        "time ratio without the system": computing["plain"] / computing["ours"],
    }


def _peaks(ours: StepPeak | None, plain: StepPeak | None) -> Row:
    """Columns of both peaks and their ratio: with gradients, and beyond them where that was measured."""
    mine, theirs = (peak.columns() if peak is not None else {} for peak in (ours, plain))
    row: Row = {}
    for gradients in mine | theirs:
        row[f"ours {gradients} [MiB]"] = mine[gradients] / 2**20 if mine else None
        row[f"baseline {gradients} [MiB]"] = theirs[gradients] / 2**20 if theirs else None
        row[f"memory ratio {gradients}"] = theirs[gradients] / mine[gradients] if mine and theirs else None
    return row


@training_kernels()
def _by_part(case: Case, ours: Any, plain: Any, batch: int, settings: Settings) -> list[Row]:
    pixels = models.make_pixels(batch, case.image_size, settings.device)
    if settings.device.type == "cuda":  # a batch before may have been too large, and have left no gradients
        for steps, images in zip((ours, plain), models.loaded(batch, case.image_size, settings.device), strict=True):
            steps.step(images)
    mine, theirs = step_parts.ours(ours, pixels), step_parts.plain(plain, pixels)
    functions = {("ours", name): part for name, part in mine.items()}
    functions |= {("plain", name): part for name, part in theirs.items()}
    times = interleaved(functions, settings.device, settings.repeats)
    unit = clock_name(settings.device)
    rows = []
    for name in mine:
        first, second = times["ours", name].median, times["plain", name].median
        rows.append((name, first, second))
    rows.append(("sum of parts", *(sum(row[i] for row in rows) for i in (1, 2))))
    return [
        {
            "table": f"Parts of a step, forward and backward, {case.name}, batch {batch}",
            "part": name,
            f"ours [{unit}]": first,
            f"baseline [{unit}]": second,
            "ratio": second / first,
        }
        for name, first, second in rows
    ]


@training_kernels()
def _memory_by_part(case: Case, ours: Any, plain: Any, batch: int, settings: Settings) -> list[Row]:
    """Who allocated what is alive at the fullest moment, for every level of recomputation."""
    pixels, images = models.loaded(batch, case.image_size, settings.device)
    training = ours.training
    modules: dict[str, nn.Module] = {
        "encoder": training.tokenizer.encoder,
        "quantizer": training.tokenizer.quantizer,
        "decoder": training.tokenizer.decoder,
        "perceptual": training.generator_objective.perceptual,
        "discriminator": training.adversary.discriminator,
    }
    peaks = {"baseline": peak_of_step(plain.optimizers, lambda: plain.step(images), settings.device)}
    for level in ("none", "activations", "blocks"):
        set_recomputation(training.tokenizer, level)
        with parts(modules):
            peaks[f"ours, recompute {level}"] = peak_of_step(
                ours.optimizers, lambda: ours.step(pixels), settings.device
            )
    set_recomputation(training.tokenizer, "none")
    gradients = "beyond gradients" if settings.device.type == "cpu" else "with gradients"
    totals = {name: peak.columns()[gradients] for name, peak in peaks.items()}
    return [
        {
            "table": f"Peak memory of a step by what allocated it, {gradients}, {case.name}, batch {batch}",
            "step": name,
            "total [MiB]": totals[name] / 2**20,
            "ratio": totals["baseline"] / totals[name],
            **{
                f"{part} [MiB]": peak.by_part.get(part, 0) / 2**20
                for part in ([*modules, "optimizers", ELSEWHERE] if peak.by_part else [])
            },
        }
        for name, peak in peaks.items()
    ]


def peak_of_step(optimizers: list[torch.optim.Optimizer], step: Callable[[], Any], device: torch.device) -> StepPeak:
    """Peak memory of a step that begins without gradients, above weights, optimizers and averages."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)

    def gradients() -> list[torch.Tensor]:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return [p.grad for group in groups for p in group["params"] if p.grad is not None]

    if device.type != "cpu":
        return StepPeak(peak_memory(step, device).num_bytes, None, {})
    peak = peak_memory(step, device, gradients)
    return StepPeak(peak.with_resident, peak.num_bytes, peak.by_part)
