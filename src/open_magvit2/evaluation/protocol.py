"""A protocol: everything that changes a figure, under a name; with a changed field it is called custom."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from open_magvit2.common.precision import Precision
from open_magvit2.evaluation import metrics as metric_table
from open_magvit2.evaluation.originals import RESIZERS
from open_magvit2.protocols import Weights

# Figures that a protocol can quote, of metrics that do not name theirs after themselves.
_FIGURES = {
    "psnr": ("psnr_image", "psnr_image_trunc", "psnr_batch4", "psnr_batch8", "psnr_global"),
    "ssim": ("ssim_image", "ssim_paper"),
}
_QUOTED = ("rfid", "psnr", "ssim")  # fields that name a figure


@dataclass(frozen=True)
class Protocol:
    """How images are made, which weights are used and which figures are quoted; `configs/evaluation/<name>.yaml`."""

    name: str  # "custom" once a field has been changed; never set
    # Of the originals, a key of `originals.RESIZERS`, or "none": each image in its own size, padded to one that the
    # tokenizer takes and cropped back.
    resize: str = "bilinear"
    weights: Weights = "ema"  # a family without moving averages gives raw ones, and results say so
    # Metrics see originals and reconstructions after a JPEG file of this quality, see `jpeg_files`; None: as they are.
    jpeg_quality: int | None = None
    metrics: tuple[str, ...] = ()  # names as `evaluation.metrics` takes them
    rfid: str | None = "rfid"  # which figures the authors quote under these three names; None: not given by them
    psnr: str | None = "psnr_image"
    ssim: str | None = "ssim_image"
    tf32: bool = False  # allow TF32 in the tokenizer; metric networks never use it
    precision: Precision = "fp32"  # of the tokenizer's networks; metrics and pixels are always in float32
    num_images: int = 50_000  # of the protocol
    version: int = 1  # of the definition; a figure belongs to one version
    changes: dict[str, list[Any]] = field(default_factory=dict)  # changed field -> [protocol's value, value used]

    def changed(self, **values: Any) -> "Protocol":
        """The protocol with other values; if one differs, its name becomes "custom" and the difference is listed."""
        if "name" in values:
            raise ValueError(f"name={values['name']}: a name cannot be set; a changed protocol is called custom")
        values = _checked(values)
        original = replace(self, **{name: old for name, (old, _) in self.changes.items()}, changes={})
        used = {name: values.get(name, getattr(self, name)) for name in _FIELDS}
        differences = {name: [old, used[name]] for name in _FIELDS if (old := getattr(original, name)) != used[name]}
        if not differences:
            return original if self.changes else self
        return replace(self, **values, name="custom", changes={"name": [original.name, "custom"], **differences})

    def configured(self, changes: Iterable[str], metrics: str | None = None) -> "Protocol":
        """The protocol with the changes and the choice of metrics of a command line.

        Args:
            changes: "field=value" each, the value as YAML has it: "tf32=true", "weights=raw".
            metrics: comma-separated names. Leaving some out or adding some changes no figure, nor the protocol's name.

        Raises:
            ValueError: for a field or value that cannot be, and a figure quoted that no metric yields.
        """
        values = {}
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals:
                raise ValueError(f"expected FIELD=VALUE, got {change!r}: write, for example, {change}=true")
            values[name] = read_yaml(value, change)
        chosen = self.changed(**values)
        if metrics is not None:
            chosen = replace(chosen, **_checked({"metrics": metrics.split(",")}))
        _check_quoted(chosen, values)
        return chosen

    def as_dict(self) -> dict[str, Any]:
        """Plain values for results.json."""
        return asdict(self)


_FIELDS = [f.name for f in fields(Protocol) if f.name not in ("name", "changes")]


def load(name: str | Path, folder: str | Path) -> Protocol:
    """Read a protocol: a name in the folder of the named ones, or the path of a YAML file.

    A name in the folder belongs to the file there: another file under this name either says the same, or its protocol
    becomes "custom" with the differences listed. A name of its own is kept.

    Raises:
        FileNotFoundError: naming the protocols in the folder.
        ValueError: naming the file and the mistake in it.
    """
    path = Path(name) if Path(name).suffix == ".yaml" else Path(folder) / f"{name}.yaml"
    loaded = _read(path)
    named = Path(folder) / f"{loaded.name}.yaml"
    if not named.is_file() or named.samefile(path):
        return loaded
    return _read(named).changed(**{name: getattr(loaded, name) for name in _FIELDS})


def _read(path: Path) -> Protocol:
    if not path.is_file():
        # a folder of protocols may hold tables as well
        known = sorted(p.stem for p in path.parent.glob("*.yaml") if "\nresize:" in p.read_text(encoding="utf-8"))
        raise FileNotFoundError(f"no protocol at {path}; available: {', '.join(known) or 'none'}")
    values = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected the fields of a protocol, got {values!r}: start from a copy of paper.yaml")
    try:
        values = _checked(values)
        if missing := [name for name in ("name", *_FIELDS) if name not in values]:
            raise ValueError(f"no value for {', '.join(missing)}: a protocol gives all of its fields")
        protocol = Protocol(**values)
        _check_quoted(protocol, _QUOTED)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return protocol


def read_yaml(text: str, where: str) -> Any:
    """Plain values of a YAML text; a ValueError that says where for what is no YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML ({' '.join(str(error).split())})") from None


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values of fields, metrics as a tuple; unknown fields and invalid values are refused."""
    if unknown := [str(name) for name in values if name not in ("name", *_FIELDS)]:
        raise ValueError(f"a protocol has no field {', '.join(unknown)}; its fields: name, {', '.join(_FIELDS)}")
    figures = _figures(metric_table.available())
    choices = {"resize": ("none", *RESIZERS), "weights": get_args(Weights), "precision": get_args(Precision)}
    choices |= {name: (None, *(figure for figure in figures if figure.startswith(name))) for name in _QUOTED}
    for name, value in values.items():
        if name == "name":
            is_valid, expected = isinstance(value, str) and value not in ("", "custom"), "a name other than custom"
        elif name == "metrics":
            is_list = isinstance(value, list | tuple) and len(value) > 0
            is_valid, expected = is_list and all(isinstance(item, str) for item in value), "a list of metrics"
        elif name == "tf32":
            is_valid, expected = isinstance(value, bool), "true or false"
        elif name == "jpeg_quality":
            is_valid = value is None or (type(value) is int and 1 <= value <= 95)
            expected = "null or a whole number from 1 to 95"
        elif name in choices:
            words = ("null" if choice is None else choice for choice in choices[name])
            is_valid, expected = value in choices[name], f"one of {', '.join(words)}"
        else:
            is_valid, expected = type(value) is int and value > 0, "a whole number above 0"
        if not is_valid:
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
    if "metrics" not in values:
        return values
    metric_table.check(values["metrics"])
    return {**values, "metrics": tuple(values["metrics"])}


def _figures(metrics: Iterable[str]) -> list[str]:
    return [figure for metric in metrics for figure in _FIGURES.get(metric, (metric,))]


def _check_quoted(protocol: Protocol, names: Iterable[str]) -> None:
    """Refuse fields, of those named, that quote a figure which no metric of the protocol yields."""
    for name in set(_QUOTED).intersection(names):
        figure = getattr(protocol, name)
        if figure is not None and figure not in _figures(protocol.metrics):
            raise ValueError(
                f"{name}: {figure} is yielded by none of the metrics {', '.join(protocol.metrics)}: add its metric, or "
                "quote another figure"
            )
