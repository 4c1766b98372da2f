"""Sources without random access: an iterable, shared by ranks and workers without duplicates, resumable by counting."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from open_magvit2.common.arguments import integer, within
from open_magvit2.data.dataset import as_raw_image, check_attempts, is_stream, make_sample
from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.order import random_stream
from open_magvit2.data.transforms import Transform
from open_magvit2.protocols import Sample

_FAR = 1000  # items: to read that many for nothing takes about as long as to begin in a new place


@dataclass(eq=False)
class TransformedStream(IterableDataset[Sample]):
    """Samples of an iterable source.

    The stream is divided into as many parts as there are loading processes on all ranks (see `parts_of`).

    Args:
        source: an iterable of what `as_raw_image` takes.
        transform: (image, random generator) -> uint8 [3, H, W].
        seed: of the transform's randomness.
        rank, num_replicas: which share this is.
        batch_size: samples of a batch on this rank.
        num_batches_done: batches of this rank that are consumed: the stream goes on after them.
        is_endless: begin anew at the end, in the next epoch; training never ends by itself. A validation is one pass.
        replace_unreadable: let the next readable image of the part take the place of one that cannot be read, and name
            that under the sample's "skipped". So every item is one sample, and a place in the stream is a plain number.

    Raises:
        ValueError: for numbers out of range, or one pass over a source without an end.
    """

    source: Any
    transform: Transform
    seed: int = 0
    rank: int = 0
    num_replicas: int = 1
    batch_size: int = 1
    num_batches_done: int = 0
    is_endless: bool = False
    replace_unreadable: bool = False

    def __post_init__(self) -> None:
        integer(0, seed=self.seed, num_batches_done=self.num_batches_done)
        integer(1, num_replicas=self.num_replicas, batch_size=self.batch_size)
        within(0, self.num_replicas, rank=self.rank)
        if not self.is_endless and getattr(self.source, "is_endless", False):
            raise ValueError(f"{type(self.source).__name__} has no end: it is for training, name another source here")

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        num_workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        # The loader takes batches from its workers in turns, beginning with worker 0: after a resumption this one
        # stands for the worker whose turn it is.
        number = (number + self.num_batches_done) % num_workers
        batches = -(-(self.num_batches_done - number) // num_workers) if self.num_batches_done > number else 0
        part, num_parts = self.rank * num_workers + number, self.num_replicas * num_workers
        places: list[tuple[int, int, list[UnreadableImageError]]] = []  # of unreadable images, to be taken by the next
        for epoch, index, item in parts_of(self.source, batches * self.batch_size, part, num_parts, self.is_endless):
            try:
                raw = as_raw_image(item, self.source, index)
            except UnreadableImageError as error:
                if not self.replace_unreadable:
                    raise
                places.append((epoch, index, [error]))
                check_attempts(len(places), error)
                continue
            for place_epoch, place, skipped in (*places, (epoch, index, [])):
                image = self.transform(raw.image, random_stream("transform", self.seed, place_epoch, place))
                yield make_sample(raw, image, index, skipped)
            places.clear()


def parts_of(
    source: Any, start: int, part: int, num_parts: int, is_endless: bool = True
) -> Iterator[tuple[int, int, Any]]:
    """(epoch, index in the source, item) of one part of a stream, after the first `start` items of that part.

    A source may divide itself. By `iterate_from(start, part, num_parts)` it yields these triples epoch after epoch
    without end, and begins at the right item at once. By `iterate(epoch, part, num_parts)` it yields the items of one
    epoch in any order that is a function of these; the first `start` are read and thrown away. Of any other iterable,
    every part reads all items and keeps every num_parts-th one.

    Raises:
        ValueError: if an endless source has no item for the part.
    """
    if hasattr(source, "iterate_from"):
        for epoch, index, item in source.iterate_from(start, part, num_parts):
            if epoch > 0 and not is_endless:
                return
            yield epoch, index, item
    else:
        yield from itertools.islice(_epochs(source, part, num_parts, is_endless), start, None)


def check_part(is_empty: bool, source: Any, part: int, num_parts: int) -> None:
    """Refuse a part without items."""
    if is_empty:
        raise ValueError(
            f"{type(source).__name__} has no items for part {part} of {num_parts}: use fewer devices or "
            "data.init_args.num_workers"
        )


def _epochs(source: Any, part: int, num_parts: int, is_endless: bool) -> Iterator[tuple[int, int, Any]]:
    for epoch in itertools.count():
        if hasattr(source, "iterate"):
            items = source.iterate(epoch, part, num_parts)
        else:
            items = itertools.islice(iter(source), part, None, num_parts)
        number = -1
        for number, item in enumerate(items):
            yield epoch, number * num_parts + part, item
        if not is_endless:
            return
        check_part(number < 0, source, part, num_parts)


class StreamInOrder:
    """A stream as a source with a length, for evaluation and tokenization, which number their images.

    Item i is the i-th of the stream. Asking for a later item reads those between; asking for an earlier one begins the
    stream anew, or near the item if the source has `in_order(start)`, which yields items from that one on. A stream
    without `__len__` is read once to count it.

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
        if hasattr(self.source, "in_order") and not 0 <= index - self._next < _FAR:
            self._items, self._next = self.source.in_order(index), index
        elif index < self._next:
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
