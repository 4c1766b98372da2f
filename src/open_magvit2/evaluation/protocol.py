"""A protocol: everything that moves a figure, under a name. A changed field makes it another protocol, and says so."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Protocol:
    """How images are made, which weights are used and which figures are quoted; `configs/evaluation/<name>.yaml`.

    Attributes:
        name: "custom" once a field has been changed.
        resize: of the originals, a key of `originals.RESIZERS`, or "none": each image in its own size, padded to a
            multiple of the tokenizer's downsampling factor and cropped back.
        weights: "averaged" or "raw".
        metrics: modules of `evaluation.metrics`.
        rfid, psnr, ssim: which figures the protocol's authors quote under these names; None: not given by them.
        tf32: allow TF32 in the tokenizer; metric networks never use it.
        num_images: how many images the protocol asks for.
        version: of the definition; a figure belongs to one version.
        changes: changed field -> [protocol's value, value used].
    """

    name: str
    resize: str = "bilinear"
    weights: str = "averaged"
    metrics: tuple[str, ...] = ()
    rfid: str | None = "rfid"
    psnr: str | None = "psnr_image"
    ssim: str | None = "ssim_image"
    tf32: bool = False
    num_images: int = 50_000
    version: int = 1
    changes: dict[str, list[Any]] = field(default_factory=dict)

    def changed(self, **values: Any) -> "Protocol":
        """The protocol with other values; if one differs, its name becomes "custom" and the difference is listed."""
        _refuse_unknown(values)
        differences = {
            name: [getattr(self, name), value] for name, value in values.items() if getattr(self, name) != value
        }
        if not differences:
            return self
        return replace(
            self, **values, name="custom", changes={**self.changes, "name": [self.name, "custom"], **differences}
        )

    def configured(self, changes: Iterable[str], metrics: str | None = None) -> "Protocol":
        """The protocol with the changes and the choice of metrics of a command line.

        Args:
            changes: "field=value" each, the value as YAML has it: "tf32=true", "weights=raw".
            metrics: comma-separated names. Leaving some out or adding some moves no figure, so it is no change.
        """
        pairs = [change.partition("=") for change in changes]
        chosen = self.changed(**{name: yaml.safe_load(value) for name, _, value in pairs})
        return chosen if metrics is None else replace(chosen, metrics=tuple(metrics.split(",")))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for results.json."""
        return asdict(self)


def load(name: str | Path, folder: str | Path = ".") -> Protocol:
    """Read a protocol.

    Args:
        name: of a file `<name>.yaml` in the folder, or the path of a YAML file.
        folder: of the named protocols.

    Raises:
        FileNotFoundError: naming the protocols beside it.
        ValueError: for an unknown field.
    """
    path = Path(name) if Path(name).suffix == ".yaml" else Path(folder) / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise FileNotFoundError(f"no protocol at {path}; beside it: {', '.join(known) or 'none'}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    _refuse_unknown(values)
    return Protocol(**{**values, "metrics": tuple(values.get("metrics", ()))})


def _refuse_unknown(values: dict[str, Any]) -> None:
    known = [f.name for f in fields(Protocol) if f.name != "changes"]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"a protocol has no field {', '.join(unknown)}; its fields: {', '.join(known)}")
