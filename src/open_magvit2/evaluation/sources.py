"""The images of an evaluation: their source, in the form a protocol asks for, and this rank's batches of them."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from open_magvit2.common.distributed import rank, world_size
from open_magvit2.data.checking import leave_out_broken
from open_magvit2.data.dataset import TransformedDataset, source_paths
from open_magvit2.data.sources.by_class_path import load_source
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.streaming import with_length
from open_magvit2.evaluation import provenance
from open_magvit2.evaluation.image_size import ImageSize
from open_magvit2.evaluation.originals import make_transform
from open_magvit2.protocols import Sample

# (a protocol's resize, (height, width) or None) -> Samples in that form, and the dataset's facts for results.json
ImageSource = Callable[[str, ImageSize | None], tuple[Dataset[Sample], dict[str, Any]]]
_BUILT_IN_SIDE = 128  # where a protocol keeps the images' own sizes


def image_source(args: argparse.Namespace) -> ImageSource | None:
    """The images that a command line (`command_line.parse_evaluate`) names, or None; a collective call under DDP.

    Raises:
        ValueError: for a source that cannot be built.
    """
    if args.images:
        source = ImageFolder(args.images, args.file_list, max_pixels=args.max_pixels)
        facts = provenance.folder(args.images, source.relative_paths(), args.file_list, args.fingerprint == "full")
        facts["left_out"] = dict(source.left_out.counts)
        facts["skipped"] = leave_out_broken(source, args.num_workers) if args.skip_broken else {}
    elif args.source:
        source = with_length(load_source(args.source, args.source_args))
        facts = provenance.described(" ".join([args.source, *args.source_args]), source_paths(source))
    else:
        return None if args.built_in is None else partial(_drawn, args.built_in)
    return lambda resize, size: (TransformedDataset(source, make_transform(resize, size)), facts)


def _drawn(number: int, resize: str, size: ImageSize | None) -> tuple[Dataset[Sample], dict[str, Any]]:
    side = max(size) if size else _BUILT_IN_SIDE
    source = SyntheticImages(number, side, split="validation")
    facts = provenance.drawn(f"SyntheticImages validation {side}", number)
    return TransformedDataset(source, make_transform(resize, size)), facts


class EvenSubset(Dataset[Sample]):
    """`number` samples of a dataset, evenly spaced over it and numbered 0 .. number - 1.

    Evenly, because ImageNet's files are sorted by class: the first 5,000 would be 100 classes.
    """

    def __init__(self, dataset: Dataset[Sample], number: int) -> None:
        if not 0 < number <= len(dataset):
            raise ValueError(f"a subset of {number} images was asked for, the dataset has {len(dataset)}")
        self.dataset = dataset
        self.positions = [i * len(dataset) // number for i in range(number)]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Sample(**{**self.dataset[self.positions[index]], "index": index})


def make_loader(dataset: Dataset[Sample], batch_size: int, num_workers: int = 0) -> DataLoader[Sample]:
    """Batches of every world_size-th sample from this rank on: nothing is padded, ranks may differ by one image."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(rank(), len(dataset), world_size()),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )
