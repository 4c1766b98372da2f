"""The rows of a comparison as its YAML file holds them: what was published, and how to measure it here."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from open_magvit2.common import published_files
from open_magvit2.evaluation import image_size as sizes
from open_magvit2.evaluation import protocol as protocols
from open_magvit2.evaluation.image_size import ImageSize
from open_magvit2.evaluation.protocol import Protocol
from open_magvit2.evaluation.report.kinds import KINDS, Column, Kind

_TEXTS = ("method", "protocol", "remark", "checkpoint", "file", "family")
_FLAGS = ("never_released", "cross_resolution")


@dataclass(frozen=True)
class Row:
    """One row of a table's YAML file."""

    method: str
    image_size: ImageSize  # of the images that the figures are of; in the file a side or [height, width]
    protocol: Protocol  # to measure it by; in the file its name
    facts: dict[str, Any]  # columns of the kind that hold no figure; in the file among the other fields
    published: dict[str, float | None] = field(default_factory=dict)  # figures by name; null: none was published
    remark: str = ""  # on the published figures
    checkpoint: str | None = None  # name of the file
    file: str | None = None  # where it is published: a name of `common.published_files`
    never_released: bool = False  # the weights were never published
    family: str | None = None  # of `evaluation.tokenizers`; None: not written yet
    cross_resolution: bool = False  # the tokenizer was trained at another size, and the row means it
    weights: str | None = None  # "ema" or "raw"; None: as the protocol says

    @property
    def size(self) -> ImageSize | None:
        """Size to evaluate at; None where the protocol keeps the images' own sizes."""
        return None if self.protocol.resize == "none" else self.image_size


def load(
    path: str | Path,
    protocol_folder: str | Path,
    changes: list[str] | None = None,
    metrics: str | None = None,
    image_size: ImageSize | None = None,
    common: str | None = None,
) -> tuple[str, list[Row]]:
    """Read a table: the kind of its records, and its rows.

    Args:
        path: the YAML file, with a list under `rows`, and a `kind` if it is not "reconstruction".
        protocol_folder: of the protocols that rows name.
        changes, metrics: of the command line, for all rows; see `Protocol.configured`.
        common: a protocol, by name or file, for all rows in the place of their own.
        image_size: keep only the rows of this size.

    Raises:
        ValueError: for a file that is no table, an unknown kind, a row with an unknown or a missing field, a value of
            a wrong type or an unknown figure, a row that is there twice, and where no row is of the size.
        FileNotFoundError: for a table or a protocol that is not there.
    """
    content = protocols.read_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or not content["rows"]:
        raise ValueError(f"{path} holds no list `rows`")
    if others := [key for key in content if key not in ("kind", "rows")]:
        raise ValueError(f"{path} has unknown {others}; expected `rows` and, at need, `kind`")
    name = content.get("kind", "reconstruction")
    if name not in tuple(KINDS):
        raise ValueError(f"{path}: no kind is called {name!r}; available: {', '.join(KINDS)}")
    rows: list[Row] = []
    for number, values in enumerate(content["rows"], 1):
        try:
            rows.append(_read(values, KINDS[name], protocol_folder, changes or [], metrics, common))
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{path}, row {number}: {error}") from None
        if (first := content["rows"].index(values) + 1) < number:
            raise ValueError(f"{path}, row {number}: every field is that of row {first}")
    kept = [row for row in rows if image_size in (None, row.image_size)]
    if not kept:
        there = ", ".join(sorted({sizes.text(row.image_size) for row in rows}))
        raise ValueError(f"{path} has no row of images of {sizes.text(image_size)}; its sizes: {there}")
    return name, kept


def _read(
    values: Any, kind: Kind, protocol_folder: str | Path, changes: list[str], metrics: str | None, common: str | None
) -> Row:
    if not isinstance(values, dict):
        raise ValueError(f"no mapping but {values!r}")
    facts = [column.name for column in kind.facts]
    known = [f.name for f in fields(Row) if f.name != "facts"]
    required = ["method", "image_size", "protocol", *(column.name for column in kind.facts if not column.optional)]
    unknown = [name for name in values if name not in (*known, *facts)]
    missing = [name for name in required if values.get(name) is None]
    if unknown or missing:
        raise ValueError(f"unknown {unknown}, missing {missing}; the fields: {', '.join([*known, *facts])}")
    values = {name: value for name, value in values.items() if value is not None}
    _check_types(values)
    figures = [column.name for column in (*kind.figures, *kind.further)]
    if unknown := [name for name in values.get("published", {}) if name not in figures]:
        raise ValueError(f"no published figure is called {unknown}; available: {', '.join(figures)}")
    if values.get("file") and published_files.find_published(values["file"]) is None:
        raise ValueError(f"no published file is called {values['file']!r}; see common/published_files.yaml")
    protocol = protocols.load(common or values["protocol"], protocol_folder)
    if values.get("weights"):
        protocol = protocol.changed(weights=values["weights"])
    own = {name: value for name, value in values.items() if name in known}
    return Row(
        **{
            **own,
            "image_size": sizes.from_plain(values["image_size"]),
            "protocol": protocol.configured(changes, metrics),
            "facts": {column.name: _fact(column, values.get(column.name, "-")) for column in kind.facts},
        }
    )


def _check_types(values: dict[str, Any]) -> None:
    """Refuse values that would fail, or mean something else, once everything is measured."""
    for name in _TEXTS:
        if name in values and (not isinstance(values[name], str) or not (values[name] or name == "remark")):
            raise ValueError(f"{name} must be a text, got {values[name]!r}")
    for name in _FLAGS:
        if name in values and not isinstance(values[name], bool):
            raise ValueError(f"{name} must be true or false, got {values[name]!r}")
    published = values.get("published", {})
    if not isinstance(published, dict):
        raise ValueError(f"published must be figures by name, got {published!r}")
    for name, value in published.items():
        if value is not None and not _is_number(value):
            raise ValueError(f"the published {name} must be a number or null, got {value!r}")


def _fact(column: Column, value: Any) -> Any:
    """The value of a column without figures; numbers become text where the column holds text."""
    if value == "-":
        return value
    if column.form != "{}":
        if not _is_number(value):
            raise ValueError(f"{column.name} must be a number, got {value!r}")
        return value
    if not isinstance(value, str) and not _is_number(value):
        raise ValueError(f"{column.name} must be a text or a number, got {value!r}")
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
