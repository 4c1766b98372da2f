"""The rows of a comparison as its YAML file holds them: what was published, and how to measure it here."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from open_magvit2.evaluation import protocol as protocols
from open_magvit2.evaluation.protocol import Protocol

FIGURES = ("rfid", "psnr", "codebook_utilization")


@dataclass(frozen=True)
class Row:
    """One line of a table's YAML file.

    Attributes:
        method, token_type, tokens, train_data, codebook_size: as the columns of the table say.
        image_size: side of the images the figures are of.
        published: the published figures by name (`FIGURES`); null or left out: none was published.
        remark: on the published figures.
        checkpoint: name of the file; None if it has none.
        never_released: whether the weights were never published.
        family: module of `evaluation.tokenizers` that loads the file; None: not written yet.
        cross_resolution: whether the tokenizer was trained at another size, and the row means it.
        weights: "ema" or "raw"; None: as the protocol says.
        protocol: to measure it by.
    """

    method: str
    tokens: str
    train_data: str
    codebook_size: int
    image_size: int
    protocol: Protocol
    token_type: str = "2D"
    published: dict[str, float | None] = field(default_factory=dict)
    remark: str = ""
    checkpoint: str | None = None
    never_released: bool = False
    family: str | None = None
    cross_resolution: bool = False
    weights: str | None = None

    @property
    def side(self) -> int | None:
        """Of the images to evaluate; None where the protocol keeps their own sizes."""
        return None if self.protocol.resize == "none" else self.image_size


def load(
    path: str | Path,
    protocol_folder: str | Path,
    changes: list[str] | None = None,
    metrics: str | None = None,
    image_size: int | None = None,
) -> list[Row]:
    """Read the rows of a table.

    Args:
        path: the YAML file, with a list under `rows`.
        protocol_folder: of the protocols that rows name.
        changes, metrics: of the command line, for all rows; see `Protocol.configured`.
        image_size: keep only the rows of this size.

    Raises:
        ValueError: for a row with an unknown or a missing field, or an unknown figure.
        FileNotFoundError: for a protocol that is not there.
    """
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{path} holds no list `rows`")
    rows = []
    for number, values in enumerate(content["rows"], 1):
        where = f"{path}, row {number}"
        _check(values, where)
        chosen = protocols.load(values["protocol"], protocol_folder)
        if values.get("weights"):
            chosen = chosen.changed(weights=values["weights"])
        row = Row(**{**values, "protocol": chosen.configured(changes or [], metrics)})
        unknown = set(row.published) - set(FIGURES)
        if unknown:
            raise ValueError(f"{where}: no published figure is called {sorted(unknown)}; available: {FIGURES}")
        rows.append(row)
    return [row for row in rows if image_size in (None, row.image_size)]


def _check(values: Any, where: str) -> None:
    """Refuse a row that is not one, by the name of what is wrong."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is no mapping but {values!r}")
    known = [f.name for f in fields(Row)]
    unknown = [name for name in values if name not in known]
    needed = ("method", "tokens", "train_data", "codebook_size", "image_size", "protocol")
    missing = [name for name in needed if values.get(name) is None]
    if unknown or missing:
        raise ValueError(f"{where}: unknown {unknown}, missing {missing}; the fields: {', '.join(known)}")
