"""This rank's batches of a dataset, and the processes and device to run them on."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from open_magvit2.common.distributed import leave_process_group, rank, world_size
from open_magvit2.protocols import Sample, Tokenizer

# Longest wait for another rank. The first one alone decodes every file for --skip-broken and reads every file for the
# fingerprint, and the last shard may be slow; NCCL's own 10 minutes end that. Where a rank fails, torchrun ends all.
_TIMEOUT = timedelta(hours=2)


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
    """Batches of every world_size-th sample from this rank on: nothing padded, ranks may differ by one image."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(rank(), len(dataset), world_size()),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device to run on, which has been tried.

    Args:
        device: "cpu", "cuda" or "cuda:1"; by default a GPU if there is one, under `torchrun` the local rank's.

    Raises:
        ValueError: if there is no such device, or it cannot be used.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen.type == "cuda" and "LOCAL_RANK" in os.environ:
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        reason, number = str(error).partition("\n")[0], torch.cuda.device_count()
        raise ValueError(
            f"cannot run on {device or 'the GPU'}: {reason}; PyTorch sees {number} GPUs here: take cpu"
            + (f", or cuda:0 to cuda:{number - 1}" if number else "")
        ) from error
    return chosen


@contextlib.contextmanager
def processes(device: str | torch.device | None = None) -> Iterator[torch.device]:
    """The device to run on; inside, under `torchrun`, this process is a rank of a process group.

    Args:
        device: see `choose_device`.
    """
    chosen = choose_device(device)
    if "LOCAL_RANK" not in os.environ:
        yield chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_TIMEOUT)
    yield chosen
    # Only where all went well: after an error the other ranks are elsewhere, and torchrun ends them.
    leave_process_group()


class PaddedTokenizer:
    """A tokenizer for images of any size: padded with grey to a multiple of its factor, centred, and cropped back.

    As the successor of the reference evaluates "original resolution". Only `reconstruct` takes any size; the indices
    are those of the padded image.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.codebook_size = tokenizer.codebook_size
        self.downsampling = tokenizer.downsampling

    def tokenize(self, image: Tensor) -> Tensor:
        """Indices of the padded image."""
        return self.tokenizer.tokenize(F.pad(image, self._margins(image)))

    def detokenize(self, indices: Tensor) -> Tensor:
        """Reconstruction of the padded image."""
        return self.tokenizer.detokenize(indices)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction of the image's own size, indices of the padded image)."""
        left, _, top, _ = margins = self._margins(image)
        reconstruction, indices = self.tokenizer.reconstruct(F.pad(image, margins))
        height, width = image.shape[-2:]
        return reconstruction[..., top : top + height, left : left + width], indices

    def _margins(self, image: Tensor) -> tuple[int, int, int, int]:
        """Pixels to add left, right, top and bottom; 0 is grey."""
        height, width = image.shape[-2:]
        x, y = -width % self.downsampling, -height % self.downsampling
        return x // 2, x - x // 2, y // 2, y - y // 2
