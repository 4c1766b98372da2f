"""Floating-point operations of the networks and of a step, and the share of the device's peak they reach (MFU).

Counted by torch's FlopCounterMode: matrix products and convolutions, a multiply-add being two. A peak comes from a
data sheet (`peaks`) or, on a CPU, from the fastest matrix product this process achieves: then it is a share of what was
reached, not of what the maker states.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from open_magvit2.benchmark import models, peaks
from open_magvit2.benchmark.failures import rows_or_reason, then_raise
from open_magvit2.benchmark.mixed_precision import training_kernels
from open_magvit2.benchmark.settings import Row, Settings
from open_magvit2.benchmark.timing import clock_name, interleaved
from open_magvit2.common.images import to_float

TITLE = "Operations and share of the peak"

_PRODUCT_SIZE = 1024  # of the square matrices on a CPU


def measure(settings: Settings) -> Iterator[Row]:
    """Encoder, decoder and the whole step of every model."""
    return then_raise(_rows(settings))


def _rows(settings: Settings) -> Iterator[Row]:
    peak, source = _peak(settings)
    for case in models.cases(settings):
        yield from rows_or_reason(partial(_model, case, peak, source, settings), table=TITLE, model=case.name)


@training_kernels()
def _model(case: models.Case, peak: float | None, source: str, settings: Settings) -> list[Row]:
    batch = 8 if settings.full else 1
    steps = models.make_ours(case, settings.device)
    tokenizer = steps.training.tokenizer
    pixels = models.make_pixels(batch, case.image_size, settings.device)
    image = to_float(pixels)
    indices = tokenizer.tokenize(image)
    works: dict[str, Callable[[], Any]] = {
        "tokenize": lambda: tokenizer.tokenize(image),
        "detokenize": lambda: tokenizer.detokenize(indices),
        "training step": lambda: steps.step(pixels),
    }
    times = interleaved(works, settings.device, settings.repeats)
    rows: list[Row] = []
    for name, work in works.items():
        operations = count(work)
        rate = operations / times[name].median
        rows.append(
            {
                "table": TITLE,
                "model": case.name,
                "batch": batch,
                "work": name,
                "GFLOP an image": operations / batch / 1e9,
                f"GFLOP / {clock_name(settings.device)}": rate / 1e9,
                "peak [GFLOP/s]": peak / 1e9 if peak else "unknown",
                "share of the peak [%]": 100 * rate / peak if peak else "unknown",
                "peak from": source,
            }
        )
    return rows


def count(function: Callable[[], Any]) -> int:
    """Operations of a call, its backward pass included."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@training_kernels()
def _peak(settings: Settings) -> tuple[float | None, str]:
    """Operations a second the device could do in float32, and who says so."""
    if settings.device.type == "cuda":
        return peaks.peak(settings.device, "fp32")
    matrix = torch.randn(_PRODUCT_SIZE, _PRODUCT_SIZE)
    seconds = interleaved({"product": lambda: matrix @ matrix}, settings.device, settings.repeats)["product"].fastest
    return 2 * _PRODUCT_SIZE**3 / seconds, f"fastest {_PRODUCT_SIZE}^3 product, CPU s"
