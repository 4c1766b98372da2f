"""The contact sheets of a comparison, from the pictures that each row's evaluation kept."""

import base64
import io
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from open_magvit2.common.images import to_image
from open_magvit2.evaluation import contact_sheet
from open_magvit2.evaluation.report import markdown
from open_magvit2.evaluation.report.comparison import names_of_rows
from open_magvit2.evaluation.report.gallery import PICTURES
from open_magvit2.evaluation.samples import whole

logger = logging.getLogger(__name__)


class Sheet(NamedTuple):
    """One picture for the page."""

    title: str
    address: str  # data: address of a JPEG
    width: int


def sheets(folder: Path, rows: list[dict[str, Any]]) -> list[Sheet]:
    """A sheet for each size of images and each set of photos; the PSNR is against the row's own originals."""
    found, names = [], names_of_rows(rows)
    for size, group in markdown.by_size(rows).items():
        by_photos: dict[tuple[str, ...], list[tuple[str, dict[str, np.ndarray]]]] = {}
        for entry in group:
            path = (folder / entry["results"]).with_name(PICTURES) if entry["results"] else None
            if path is None or not path.is_file():
                continue
            try:
                with whole(path), np.load(path, allow_pickle=False) as content:
                    kept = {name: content[name] for name in content.files}
            except ValueError as error:
                logger.warning("%s is left out of the contact sheet: %s", entry["method"], error)
                continue
            shapes = [str(kept[f"original_{n}"].shape) for n in range(len(kept["path"]))]
            title = f"{names[id(entry)]}, {entry['facts'].get('tokens', '')}"
            by_photos.setdefault((*map(str, kept["path"]), *shapes), []).append((title, kept))
        found += [_sheet(size, columns) for columns in by_photos.values()]
    return found


def _sheet(size: str, rows: list[tuple[str, dict[str, np.ndarray]]]) -> Sheet:
    names = [Path(path).name for path in rows[0][1]["path"]]

    def pictures(kept: dict[str, np.ndarray], what: str) -> list[torch.Tensor]:
        return [torch.from_numpy(kept[f"{what}_{n}"]) for n in range(len(names))]

    photos = [contact_sheet.Photo(*pair) for pair in zip(names, pictures(rows[0][1], "original"), strict=True)]
    columns = [
        contact_sheet.Column(title, pictures(kept, "reconstruction"), pictures(kept, "original"))
        for title, kept in rows
    ]
    drawn = to_image(contact_sheet.draw(photos, columns))
    file = io.BytesIO()
    drawn.save(file, format="JPEG", quality=92)
    address = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Sheet(f"Photos at {size}", address, drawn.width)
