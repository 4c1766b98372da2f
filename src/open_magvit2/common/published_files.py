"""The published tokenizers of the field by short names: where their files are, and what their authors report."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class PublishedFile:
    """One published file.

    Attributes:
        family: of `evaluation.tokenizers`.
        repository: on the Hugging Face Hub; "" where it is published elsewhere.
        file: its name there; "" for the repository's only file of weights.
        url: where it is published if not on the Hub.
        licence: of the weights, as their authors state it.
        sha256: of the file, where known.
        figures: as published, e.g. {"rfid": 1.53, "psnr": 21.53}.
        remark: what is doubtful.
    """

    family: str
    repository: str = ""
    file: str = ""
    url: str = ""
    licence: str = ""
    sha256: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    remark: str = ""


@lru_cache(maxsize=1)
def _table() -> dict[str, PublishedFile]:
    content: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {name: PublishedFile(**values) for name, values in content.items()}


def published() -> dict[str, PublishedFile]:
    """The published tokenizers by short name; `load_tokenizer` takes the names of those on the Hub.

    Example:
        >>> published()["imagenet_256_B"].repository
        'TencentARC/Open-MAGVIT2'
    """
    return dict(_table())
