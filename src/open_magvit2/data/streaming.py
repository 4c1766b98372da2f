"""Sources without random access: an iterable, shared by ranks and workers without duplicates, resumable by skipping."""

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from open_magvit2.data.dataset import as_raw_image
from open_magvit2.data.order import random_stream
from open_magvit2.data.transforms import Transform
from open_magvit2.protocols import Sample


class TransformedStream(IterableDataset[Sample]):
    """Samples of an iterable source.

    The stream is divided into as many parts as there are loading processes on all ranks. A source may have a method
    `iterate(epoch, part, num_parts)` that yields the items of a part alone, in any order that is a function of these;
    of any other iterable, every part reads all items and keeps every num_parts-th one.

    Args:
        source: an iterable of what `as_raw_image` takes.
        transform: (image, random generator) -> uint8 [3, H, W].
        seed: of the transform's randomness.
        rank, num_replicas: which share this is.
        batch_size: samples of a batch on this rank.
        num_batches_done: batches of this rank that are consumed: the stream goes on after them. Their items are read
            again and thrown away, without the transform.
        is_endless: begin anew at the end, in the next epoch; training never ends by itself. A validation is one pass.
    """

    def __init__(
        self,
        source: Any,
        transform: Transform,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        batch_size: int = 1,
        num_batches_done: int = 0,
        is_endless: bool = False,
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.rank = rank
        self.num_replicas = num_replicas
        self.batch_size = batch_size
        self.num_batches_done = num_batches_done
        self.is_endless = is_endless

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        num_workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        # The loader takes batches from its workers in turns, beginning with worker 0: after a resumption this one
        # stands for the worker whose turn it is.
        number = (number + self.num_batches_done) % num_workers
        batches = -(-(self.num_batches_done - number) // num_workers) if self.num_batches_done > number else 0
        part, num_parts = self.rank * num_workers + number, self.num_replicas * num_workers
        items = itertools.islice(self._items(part, num_parts), batches * self.batch_size, None)
        for epoch, index, item in items:
            raw = as_raw_image(item, self.source, index)
            generator = random_stream("transform", self.seed, epoch, index)
            image = self.transform(raw.image, generator)
            yield Sample(image=image, label=raw.label, path=raw.path, index=index, skipped="")

    def _items(self, part: int, num_parts: int) -> Iterator[tuple[int, int, Any]]:
        """(epoch, index in the epoch's stream, item) of a part."""
        for epoch in itertools.count():
            if hasattr(self.source, "iterate"):
                items = self.source.iterate(epoch, part, num_parts)
            else:
                items = itertools.islice(iter(self.source), part, None, num_parts)
            number = -1
            for number, item in enumerate(items):
                yield epoch, number * num_parts + part, item
            if not self.is_endless:
                return
            if number < 0:
                raise ValueError(
                    f"{type(self.source).__name__} has no items for part {part} of {num_parts}: use fewer devices or "
                    "data.init_args.num_workers"
                )
