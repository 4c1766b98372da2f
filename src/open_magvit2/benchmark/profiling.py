"""Where one training step goes: its most expensive operators, by torch.profiler."""

from collections.abc import Iterator
from functools import partial

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from open_magvit2.benchmark import models
from open_magvit2.benchmark.failures import rows_or_reason, then_raise
from open_magvit2.benchmark.mixed_precision import training_kernels
from open_magvit2.benchmark.settings import Row, Settings

TITLE = "Profile of one training step"

_NUM_OPERATORS = 12


def measure(settings: Settings) -> Iterator[Row]:
    """The first model's operators with the most time of their own, without those they call; the rest in one row."""
    case = models.cases(settings)[0]
    return then_raise(rows_or_reason(partial(_model, case, settings), table=TITLE, model=case.name))


@training_kernels()
def _model(case: models.Case, settings: Settings) -> list[Row]:
    cuda = settings.device.type == "cuda"
    batch = 8 if settings.full else 2
    steps, pixels = (
        models.make_ours(case, settings.device),
        models.make_pixels(batch, case.image_size, settings.device),
    )
    steps.step(pixels)
    with profile(activities=[ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])) as profiler:
        steps.step(pixels)
        if cuda:
            torch.cuda.synchronize(settings.device)
    # On a GPU a kernel's time is that of the operator that started it. Kernels are events of their own as well, and so
    # are the spans that optimizers mark: what runs on the device would count twice and thrice.
    microseconds = {
        event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total, event.count)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU
    }
    total = sum(time for time, _ in microseconds.values())
    ranked = sorted(microseconds.items(), key=lambda item: -item[1][0])
    shown, others = ranked[:_NUM_OPERATORS], ranked[_NUM_OPERATORS:]
    shown.append(("all others", (sum(time for _, (time, _) in others), sum(count for _, (_, count) in others))))
    return [
        {
            "table": f"{case.name}, batch {batch}, one step, {'GPU' if cuda else 'wall'} time without callees",
            "operator": name.removeprefix("aten::"),
            "calls": count,
            "ms": time / 1000,
            "share [%]": 100 * time / total,
        }
        for name, (time, count) in shown
    ]
