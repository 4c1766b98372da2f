"""The figures of single images and of classes as CSV tables."""

import csv
import io

from torch import Tensor


def per_image(rows: dict[str, Tensor], samples: dict[int, tuple[str, int]]) -> str:
    """A line for each image: index, path, label, and its figures.

    Args:
        rows: columns float64 [N] in the dataset's order.
        samples: (path, label) by index; an image without an entry has empty cells.
    """
    number = len(next(iter(rows.values()))) if rows else 0
    lines = [["index", "path", "label", *rows]]
    for index in range(number):
        path, label = samples.get(index, ("", ""))
        lines.append([index, path, label, *(column[index].item() for column in rows.values())])
    return text(lines)


def per_class(rows: dict[str, Tensor], samples: dict[int, tuple[str, int]]) -> str:
    """A line for each class: label, number of its images, and the mean of each figure over them.

    Images without a class (label -1) count as one class. Figures of sets, as rFID, are not here.
    """
    members: dict[int, list[int]] = {}
    for index, (_, label) in samples.items():
        members.setdefault(label, []).append(index)
    lines = [["label", "images", *rows]]
    for label, indices in sorted(members.items()):
        lines.append([label, len(indices), *(column[indices].mean().item() for column in rows.values())])
    return text(lines)


def text(lines: list[list[object]]) -> str:
    """Lines of cells as CSV; None becomes an empty cell."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
