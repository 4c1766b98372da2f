"""The metrics, one class a file, and how they are chosen: by the same names in YAML files and after `--metrics`.

A name is a module of this folder ("psnr"), one of `VARIANTS` ("rfid_tf"), or a class path ("my_project.metrics.Mine").
A metric is a class that fulfils `open_magvit2.protocols.Metric`. Arguments of its constructor that are named like a
field of `MetricContext` are filled in.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_magvit2.common.weights import WeightsUnavailable
from open_magvit2.evaluation.features.reference import Reference
from open_magvit2.protocols import Metric

# name: (module, arguments)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "rfid_u8": ("rfid", {"preprocessing": "u8"}),
    "rfid_tf": ("rfid", {"preprocessing": "tf"}),
    "sfid": ("fid", {"features": "spatial"}),
    "lpips_alex": ("lpips", {"networks": ("alex",)}),
    "lpips_vgg": ("lpips", {"networks": ("vgg",)}),
}


@dataclass(frozen=True)
class MetricContext:
    """Facts that a metric may ask for before the first batch."""

    codebook_size: int | None = None  # of the tokenizer; None where there is none
    num_images: int | None = None  # how many images all ranks will see together; None if unknown
    # Names the content of the dataset and its preprocessing, so that figures of the originals can be kept between runs
    # (the moments of rFID); empty: keep nothing.
    dataset_key: str = ""
    reference: Reference | None = None  # what generated images are compared with; None of reconstructions
    is_continuous: bool = False  # the autoencoder has no codes: metrics of codes are left out


def available() -> list[str]:
    """The names of the metrics, without class paths."""
    return sorted([*(module.name for module in pkgutil.iter_modules(__path__)), *VARIANTS])


def check(names: Sequence[str]) -> None:
    """Refuse unknown and repeated names with a ValueError."""
    if unknown := [name for name in names if name not in available() and "." not in name]:
        raise ValueError(f"no metric is called {', '.join(unknown)}; available: {', '.join(available())}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"given more than once: {', '.join(repeated)}; name each metric once")
    for name in names:
        _metric_class(name)


def merged(figures: Mapping[str, float], more: Mapping[str, float], name: str) -> dict[str, float]:
    """Figures with those of one more metric.

    Raises:
        ValueError: for a figure that is there already, or no number, naming the metric.
    """
    if not isinstance(more, Mapping):
        raise ValueError(f"metric {name} gives a {type(more).__name__}, expected figures by name, e.g. {{'mine': 0.5}}")
    if repeated := sorted(figures.keys() & more.keys()):
        raise ValueError(f"metric {name} gives {repeated}, which another metric gives already")
    numbers = {}
    for key, value in more.items():
        try:
            numbers[key] = value if isinstance(value, (int, float)) else float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"metric {name} gives {key} = {value!r:.100}, expected a number") from error
    return {**figures, **numbers}


def create(names: Sequence[str], context: MetricContext) -> tuple[dict[str, Metric], dict[str, str]]:
    """Make metrics by name.

    Returns:
        (metrics, absent): the metrics by name, and the reason for each one whose network weights are missing here, or
        that measures codes where there are none.

    Raises:
        ValueError: for an unknown or repeated name, a metric that needs to know what the context does not say, and two
            metrics that measure the same column of every image, such as lpips and lpips_alex.
    """
    check(names)
    metrics: dict[str, Metric] = {}
    absent: dict[str, str] = {}
    columns: dict[str, str] = {}
    for name in names:
        kind, arguments = _metric_class(name)
        parameters = inspect.signature(kind).parameters
        known = {field: value for field, value in vars(context).items() if field in parameters}
        required = {field for field in known if parameters[field].default is inspect.Parameter.empty}
        unknown = [field for field in required if known[field] is None]
        if unknown == ["codebook_size"] and context.is_continuous:
            absent[name] = "a continuous autoencoder has no codes"
            continue
        if unknown:
            raise ValueError(f"the metric {name} needs {unknown[0]}, which is not known here")
        try:
            metrics[name] = kind(**arguments, **known)
        except WeightsUnavailable as error:
            absent[name] = str(error)
            continue
        for column in getattr(metrics[name], "columns", ()):
            if columns.setdefault(column, name) != name:
                raise ValueError(f"{column} would come from {columns[column]} and from {name}: leave one out")
    return metrics, absent


def _metric_class(name: str) -> tuple[type, dict[str, Any]]:
    """The class of a metric, and the arguments that make it the variant of that name."""
    module_name, arguments = VARIANTS.get(name, (name, {}))
    path, _, wanted = module_name.rpartition(".")
    try:
        module = importlib.import_module(path or f"{__name__}.{module_name}")
    except ImportError as error:
        raise ValueError(f"cannot import the metric {name}: {error}") from error
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and (kind.__name__ == wanted if path else kind.__module__ == module.__name__)
        and all(callable(getattr(kind, method, None)) for method in ("update", "compute", "reset"))
    ]
    if len(kinds) != 1:
        raise ValueError(f"expected one class with update, compute and reset at {name}, found {len(kinds)}")
    return kinds[0], arguments
