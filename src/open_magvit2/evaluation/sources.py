"""The images of an evaluation as a command line names them, in the form that a protocol asks for."""

from typing import Any

from torch.utils.data import Dataset

from open_magvit2.data.checking import leave_out_broken
from open_magvit2.data.dataset import TransformedDataset
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.image_size import ImageSize
from open_magvit2.evaluation.originals import make_transform
from open_magvit2.evaluation.run import ImageSource
from open_magvit2.protocols import Sample

_BUILT_IN_SIDE = 128  # where a protocol keeps the images' own sizes


def folder(
    path: str,
    file_list: str | None = None,
    skip_broken: bool = False,
    num_workers: int = 0,
    full_fingerprint: bool = True,
) -> ImageSource:
    """The images of a folder; a collective call under DDP.

    Args:
        path, file_list: see `ImageFolder`.
        skip_broken: decode every file first, and leave out and list those that cannot be read.
        num_workers: processes that decode; 0: one a core.
        full_fingerprint: over the contents of the files, or over their names and sizes alone.
    """
    images = ImageFolder(path, file_list)
    facts = provenance.folder(path, images.relative_paths(), file_list, full_fingerprint)
    facts["skipped"] = leave_out_broken(images, num_workers) if skip_broken else {}
    return lambda resize, size: (TransformedDataset(images, make_transform(resize, size)), facts)


def built_in(number: int) -> ImageSource:
    """Held-out images drawn by code, for which no file is needed."""

    def draw(resize: str, size: ImageSize | None) -> tuple[Dataset[Sample], dict[str, Any]]:
        side = max(size) if size else _BUILT_IN_SIDE
        drawn = SyntheticImages(number, side, split="validation")
        facts = provenance.drawn(f"SyntheticImages validation {side}", number)
        return TransformedDataset(drawn, make_transform(resize, size)), facts

    return draw
