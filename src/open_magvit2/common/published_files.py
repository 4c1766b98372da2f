"""The published tokenizers and generators by short names: the rows of `published_files.yaml`, typed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

TABLE = Path(__file__).with_name("published_files.yaml")


@dataclass(frozen=True)
class PublishedFile:
    """A file that its authors offer; None is what they do not say.

    Attributes:
        name: short, for `load_tokenizer(name)` and every `--checkpoint name`.
        kind: what is in it.
        method: the name of the method in tables.
        repository: on the Hugging Face Hub; None: elsewhere, see `remark`.
        file: in the repository; None: the repository as a whole.
        family: the loader, of `evaluation.tokenizers` or of the generators; None: no loader here yet.
        licence: of the file, or of its repository, as its authors state it.
        figures: as published, one dictionary an image size: image_size, rfid, psnr, codebook_utilization, fid, ...
        millions: of parameters of the tokenizer, without losses and averages, to two decimals.
        num_bytes, sha256, md5: of the file, where somebody published them.
        remark: what a user of the file must know.
    """

    name: str
    kind: Literal["image_tokenizer", "video_tokenizer", "generator"]
    method: str
    repository: str | None
    file: str | None
    family: str | None
    licence: str | None
    figures: tuple[Mapping[str, float], ...] = ()
    millions: float | None = None
    num_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    remark: str = ""


@lru_cache(maxsize=1)
def published() -> tuple[PublishedFile, ...]:
    """All published files that are known here, in the order of the table.

    Example:
        >>> [row.repository for row in published() if row.name == "imagenet_256_B"]
        ['TencentARC/Open-MAGVIT2']
    """
    rows: list[dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["files"]
    return tuple(PublishedFile(**{**row, "figures": tuple(row.get("figures", ()))}) for row in rows)


def find_published(name: str) -> PublishedFile | None:
    """The published file of a short name."""
    return next((row for row in published() if row.name == name), None)
