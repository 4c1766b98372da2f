"""The metrics, one file each: `metrics/<name>.py` is selected by `--metrics <name>`.

Such a module defines `create(context) -> Metric` (`open_magvit2.protocols.Metric`). That is the whole convention: a new
file with a `create` is a new metric, found by its name.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass

from open_magvit2.common.weights import WeightsUnavailable
from open_magvit2.protocols import Metric


@dataclass(frozen=True)
class MetricContext:
    """What a metric may know before the first batch.

    Attributes:
        codebook_size: of the tokenizer.
        num_images: how many images will be seen by all ranks together, where that is known.
        dataset_key: names the dataset with its preprocessing, for figures of the originals that are worth keeping
            between runs (the moments of rFID); empty: keep nothing.
    """

    codebook_size: int
    num_images: int | None = None
    dataset_key: str = ""


def available() -> list[str]:
    """The names of the metrics."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check(names: Sequence[str]) -> None:
    """Refuse, with a ValueError, names without a module and names given twice."""
    unknown = [name for name in names if name not in available()]
    if unknown:
        raise ValueError(f"no metric is called {', '.join(unknown)}; available: {', '.join(available())}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"given more than once: {', '.join(repeated)}; name each metric once")


def create(names: list[str], context: MetricContext) -> tuple[dict[str, Metric], dict[str, str]]:
    """Make metrics by name.

    Returns:
        (metrics, absent): the metrics by name, and for each one whose network weights are not on this machine the
        reason: the others work without it.

    Raises:
        ValueError: for a name without a module or given twice, and for two metrics that measure the same column of
            every image, such as lpips and lpips_alex.
    """
    check(names)
    metrics: dict[str, Metric] = {}
    absent: dict[str, str] = {}
    for name in names:
        module = importlib.import_module(f"{__name__}.{name}")
        try:
            metrics[name] = module.create(context)
        except WeightsUnavailable as error:
            absent[name] = str(error)
            continue
        for other in list(metrics)[:-1]:
            twice = set(_columns(metrics[name])) & set(_columns(metrics[other]))
            if twice:
                raise ValueError(f"{', '.join(sorted(twice))} would come from {other} and from {name}: leave one out")
    return metrics, absent


def _columns(metric: Metric) -> Sequence[str]:
    """What a metric keeps of every image, if it does (`per_image.PerImageMetric`)."""
    return getattr(metric, "columns", ())
