"""Images that a generator makes while they are evaluated: no file is written."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common.distributed import rank, world_size
from open_magvit2.common.files import sha256

Make = Callable[[Tensor, Sequence[int]], Tensor]  # labels int64 [B], a seed each -> pixels uint8 [B, 3, H, W]


class GeneratedImages:
    """An `samples.ImageSet` of one image a label and seed.

    Args:
        make: the generator with its tokenizer and settings. An image must depend on its label and seed alone.
        labels: int64 [N] classes, in shuffled order: the Inception Score depends on it.
        seeds: one an image.
        made_by: plain values that decide the pixels: settings, seed, checksums; the fingerprint is over them.
    """

    def __init__(self, make: Make, labels: Tensor, seeds: Sequence[int], made_by: dict[str, Any]) -> None:
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"expected one seed a label and at least one, got {len(seeds)} for {len(labels)} labels")
        self.make, self.labels, self.seeds = make, labels, list(seeds)
        made_by = json.loads(json.dumps(made_by))
        content = json.dumps([made_by, labels.tolist(), self.seeds], sort_keys=True)
        self.facts = {
            "path": None,
            "fingerprint": sha256(content.encode()),
            "fingerprint_mode": "of what made them",
            **made_by,
        }

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches, all of one size for the generator: another size is rounded otherwise."""
        batch_size = min(batch_size, len(self))
        for start in range(rank() * batch_size, len(self), world_size() * batch_size):
            index = torch.arange(start, min(start + batch_size, len(self)))
            filled = torch.cat([index, index[-1:].expand(batch_size - len(index))])
            pixels = self.make(self.labels[filled], [self.seeds[i] for i in filled])
            if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[:2] != (batch_size, 3):
                raise ValueError(f"expected uint8 [{batch_size}, 3, H, W], got {pixels.dtype} {list(pixels.shape)}")
            yield index, pixels[: len(index)]
