"""Images a second of an evaluation: the networks, the metrics and the loop around them."""

from collections.abc import Iterator

import torch

from benchmarks import subjects
from benchmarks.settings import Row, Settings
from benchmarks.timing import clock_name, interleaved
from open_magvit2.evaluation import metrics as metric_modules
from open_magvit2.evaluation.loop import evaluate
from open_magvit2.evaluation.metrics import MetricContext

TITLE = "Evaluation"

_METRICS = ["psnr", "ssim", "l1", "clamp_fraction", "codebook_usage", "bits_per_pixel"]  # those without networks
_TABLE = TITLE + ": " + ", ".join(_METRICS)


def measure(settings: Settings) -> Iterator[Row]:
    """One row a model: the whole evaluation, and the same with networks that cost nothing."""
    for case in subjects.cases(settings):
        yield _model(case, settings)


def _model(case: subjects.Case, settings: Settings) -> Row:
    number, batch = (256, 32) if settings.full else (8, 4)
    pixels = subjects.make_pixels(number, case.image_size, torch.device("cpu"))
    loader = [
        {"image": pixels[i : i + batch], "path": [""] * batch, "index": torch.arange(i, i + batch)}
        for i in range(0, number, batch)
    ]
    tokenizer = subjects.make_tokenizer(case, settings.device)
    chosen, _ = metric_modules.create(_METRICS, MetricContext(tokenizer.codebook_size, number, "benchmark"))
    kinds = {"whole": tokenizer, "loop": subjects.FreeTokenizer(tokenizer)}
    functions = {
        name: lambda kind=kind: evaluate(kind, loader, chosen, settings.device, progress=False, check="off")
        for name, kind in kinds.items()
    }
    times = interleaved(functions, settings.device, settings.repeats)
    unit = clock_name(settings.device)
    return {
        "table": _TABLE,
        "model": case.name,
        "batch": batch,
        f"images / {unit}": number / times["whole"].median,
        f"images / {unit} without networks": number / times["loop"].median,
        "share outside the networks [%]": 100 * times["loop"].median / times["whole"].median,
    }
