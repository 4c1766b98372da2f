"""This rank's batches of a dataset, or of an evenly spaced part of it."""

import torch
from torch.utils.data import DataLoader, Dataset

from open_magvit2.common.distributed import rank, world_size
from open_magvit2.protocols import Sample


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
