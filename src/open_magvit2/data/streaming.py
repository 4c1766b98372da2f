"""Sources without random access: an iterable, shared by ranks and workers without duplicates, resumable by skipping."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from open_magvit2.common.arguments import integer, within
from open_magvit2.data.dataset import as_raw_image, is_stream
from open_magvit2.data.order import random_stream
from open_magvit2.data.transforms import Transform
from open_magvit2.protocols import Sample


@dataclass(eq=False)
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

    Raises:
        ValueError: for numbers out of range.
    """

    source: Any
    transform: Transform
    seed: int = 0
    rank: int = 0
    num_replicas: int = 1
    batch_size: int = 1
    num_batches_done: int = 0
    is_endless: bool = False

    def __post_init__(self) -> None:
        integer(0, seed=self.seed, num_batches_done=self.num_batches_done)
        integer(1, num_replicas=self.num_replicas, batch_size=self.batch_size)
        within(0, self.num_replicas, rank=self.rank)

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
            image = self.transform(raw.image, random_stream("transform", self.seed, epoch, index))
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


class StreamInOrder:
    """A stream as a source with a length, for evaluation and tokenization, which number their images.

    Item i is the i-th of the stream. Asking for a later item reads those between; asking for an earlier one begins the
    stream anew. A stream without `__len__` is read once to count it.

    Args:
        source: an iterable that yields the same items every time.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self._length = len(source) if hasattr(source, "__len__") else sum(1 for _ in source)
        self._items: Iterator[Any] = iter(())
        self._next = self._length  # index of the next of `_items`

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> Any:
        """Item `index` in [0, len(self))."""
        if index < self._next:
            self._items, self._next = iter(self.source), 0
        item = next(itertools.islice(self._items, index - self._next, None))
        self._next = index + 1
        return item

    def relative_paths(self) -> list[str]:
        """Names of the items: "MyStream[0]", ..."""
        return [f"{type(self.source).__name__}[{index}]" for index in range(len(self))]

    def __getstate__(self) -> dict[str, Any]:
        """Iterators cannot be sent to loading processes: each begins the stream by itself."""
        return {**vars(self), "_items": iter(()), "_next": self._length}


def with_length(source: Any) -> Any:
    """A source with random access as it is, a stream as `StreamInOrder`."""
    return StreamInOrder(source) if is_stream(source) else source
