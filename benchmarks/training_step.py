"""A whole training step against the plain baseline, by level of recomputation; Adam and EMA by themselves."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks import subjects
from benchmarks.memory import Peak, peak_memory
from benchmarks.mixed_precision import training_kernels
from benchmarks.settings import Row, Settings
from benchmarks.timing import clock_name, interleaved
from open_magvit2.training.recomputation import set_recomputation

TITLE = "Training step"

LEVELS = ("none", "activations", "blocks")


def measure(settings: Settings) -> Iterator[Row]:
    """Rows of whole steps, then of the optimizers, for every model."""
    for case in subjects.cases(settings):
        ours, plain = subjects.make_ours(case, settings.device), subjects.make_plain(case, settings.device)
        yield from whole_steps(case, ours, plain, settings)
        yield from optimizers(case, ours, plain, settings)


@training_kernels()
def whole_steps(case: subjects.Case, ours: Any, plain: Any, settings: Settings) -> list[Row]:
    """The baseline and ours at every level of recomputation, in turns."""
    device, batch = settings.device, settings.batch or (8 if settings.full else 2)
    pixels, images = subjects.loaded(batch, case.image_size, device)

    def at(level: str) -> Any:
        def step() -> None:
            set_recomputation(ours.training.tokenizer, level)
            ours.step(pixels)

        return step

    functions = {"baseline": lambda: plain.step(images)} | {f"ours, recompute {level}": at(level) for level in LEVELS}
    times = interleaved(functions, device, settings.repeats)
    peaks = {
        name: peak_of_step((plain if name == "baseline" else ours).optimizers, step, device)
        for name, step in functions.items()
    }
    set_recomputation(ours.training.tokenizer, "none")
    unit, first = clock_name(device), times["baseline"]
    return [
        {
            "table": f"{case.name}, batch {batch}",
            "step": name,
            f"step [{unit}]": time.median,
            "time ratio": first.median / time.median,
            "of it the kernel [CPU s]": time.system if device.type == "cpu" else None,
            "time ratio without the kernel": (first.median - first.system) / (time.median - time.system),
            "peak [MiB]": peaks[name].num_bytes / 2**20,
            "memory ratio": peaks["baseline"].num_bytes / peaks[name].num_bytes,
            "memory ratio with gradients": peaks["baseline"].with_resident / peaks[name].with_resident,
        }
        for name, time in times.items()
    ]


@training_kernels()
def optimizers(case: subjects.Case, ours: Any, plain: Any, settings: Settings) -> list[Row]:
    """Adam and the averages of the weights against loops over tensors; gradients are those of the steps before."""
    pixels, images = subjects.loaded(1, case.image_size, settings.device)
    ours.step(pixels)
    plain.step(images)
    works = {
        "Adam": ([o.step for o in ours.optimizers], [o.step for o in plain.optimizers]),
        "averages": ([ours.update_averages], [plain.update_averages]),
    }
    functions = {
        (name, kind): (lambda calls=calls: [call() for call in calls])
        for name, both in works.items()
        for kind, calls in zip(("ours", "baseline"), both, strict=True)
    }
    times, unit = interleaved(functions, settings.device, settings.repeats), clock_name(settings.device)
    return [
        {
            "table": f"Optimizers, {case.name}",
            "work": name,
            f"ours [{unit}]": times[name, "ours"].median,
            f"baseline [{unit}]": times[name, "baseline"].median,
            "time ratio": times[name, "baseline"].median / times[name, "ours"].median,
        }
        for name in works
    ]


def peak_of_step(optimizers: list[torch.optim.Optimizer], step: Any, device: torch.device) -> Peak:
    """Peak memory of a step that begins without gradients, above weights, optimizers and averages.

    On a CPU `num_bytes` leaves the gradients out, which DDP keeps from step to step; `with_resident` counts them.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)

    def gradients() -> list[torch.Tensor]:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return [p.grad for group in groups for p in group["params"] if p.grad is not None]

    return peak_memory(step, device, gradients if device.type == "cpu" else None)
