"""The metrics, one file each: `metrics/<name>.py` is selected by `--metrics <name>`.

Such a module defines `create(context) -> Metric` (`open_magvit2.protocols.Metric`). That is the whole convention: a new
file with a `create` is a new metric, found by its name.
"""

import importlib
import pkgutil
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


def create(names: list[str], context: MetricContext) -> tuple[dict[str, Metric], dict[str, str]]:
    """Make metrics by name.

    Returns:
        (metrics, absent): the metrics by name, and for each one whose network weights are not on this machine the
        reason: the others work without it.

    Raises:
        ValueError: for a name without a module.
    """
    unknown = [name for name in names if name not in available()]
    if unknown:
        raise ValueError(f"no metric is called {', '.join(unknown)}; available: {', '.join(available())}")
    metrics: dict[str, Metric] = {}
    absent: dict[str, str] = {}
    for name in names:
        module = importlib.import_module(f"{__name__}.{name}")
        try:
            metrics[name] = module.create(context)
        except WeightsUnavailable as error:
            absent[name] = str(error)
    return metrics, absent
