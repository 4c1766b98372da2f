"""Images in WebDataset shards: tar files on a disk, behind https://, or in s3://, in an exact and resumable order.

The design is the simplest that keeps all promises: the number of samples of every shard is known before the first is
read, from the index next to the shards (scripts/make_shards.py writes it, and counts shards that others made), or by
counting local ones. Then:

* an epoch is one sequence of all samples, a function of (seed, epoch): shards are permuted, and within a shard the
  samples of each window of `shuffle_window`;
* every loading process of every rank reads its own stretch of that sequence, of equal length: no duplicates, nothing is
  left out, and there may be fewer shards than processes;
* where a process stands is one number, from which it finds shard and sample without reading what came before. Nothing
  else is saved in a checkpoint.

Shards are read from front to back, never at random places, so that local and remote ones are the same.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from open_magvit2.common.arguments import integer
from open_magvit2.common.files import sha256
from open_magvit2.data.dataset import RawImage, Source
from open_magvit2.data.decoding import MAX_PIXELS, UnreadableImageError, read_rgb
from open_magvit2.data.image_files import SUFFIXES
from open_magvit2.data.order import random_stream
from open_magvit2.data.sources import shard_files
from open_magvit2.data.streaming import check_part

logger = logging.getLogger(__name__)

Item = Callable[[], RawImage]  # decodes a sample


class Shards(Source):
    """The images of tar files, as a stream (see `data.streaming`).

    A sample is the files of one name: an image (jpg, png, webp, ...), a label in ".cls" if there is one, else -1. A
    sample without an image, or with one that cannot be decoded, is an unreadable image; so are the samples that a
    damaged shard lacks.

    Args:
        urls: paths or URLs, with braces: "/data/{000..099}.tar", "https://host/{000..099}.tar", "s3://bucket/0.tar"
            (needs the AWS command line). Or a list of those.
        index: path or URL of the index; None for index.json next to the first shard.
        text: ending of the files that describe the images, e.g. "txt": read as "text" of each sample. None ignores
            texts.
        shuffle_window: samples that are permuted in memory. Shards written from a sorted folder need a shuffle when
            they are written, which scripts/make_shards.py does.
        seed: of the order.
        max_pixels: an image that claims more, width times height, is unreadable.

    Raises:
        ValueError: for remote shards without an index, or an index that does not name them all, or whose sizes are not
            those of the files.
        FileNotFoundError: if a local shard does not exist.
        UserError: without the package webdataset.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        index: str | None = None,
        text: str | None = None,
        shuffle_window: int = 256,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        integer(1, shuffle_window=shuffle_window, max_pixels=max_pixels)
        integer(0, seed=seed)
        self.urls = shard_files.expand(urls)
        self.text = text
        self.shuffle_window = shuffle_window
        self.seed = seed
        self.max_pixels = max_pixels
        if missing := [url for url in self.urls if shard_files.is_local(url) and not os.path.isfile(url)]:
            raise FileNotFoundError(f"{len(missing)} of {len(self.urls)} shards do not exist, first {missing[0]!r}")
        self.counts = _counts(self.urls, index)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])  # of the shards, in the numbering of samples
        logger.info("%d samples in %d shards", len(self), len(self.urls))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[RawImage]:
        return (item() for item in self.in_order(0))

    def in_order(self, start: int) -> Iterator[Item]:
        """One pass in the order of the shards, from sample `start` on."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for shard in range(first, len(self.urls)):
            yield from self._samples(shard, max(0, start - int(self._starts[shard])))

    def iterate_from(self, start: int, part: int, num_parts: int) -> Iterator[tuple[int, int, Item]]:
        """See `streaming.parts_of`."""
        first, last = (len(self) * number // num_parts for number in (part, part + 1))
        check_part(first == last, self, part, num_parts)
        epochs, done = divmod(start, last - first)
        for epoch in itertools.count(epochs):
            for index, item in self._stretch(epoch, first + done, last):
                yield epoch, index, item
            done = 0

    def identity(self) -> dict[str, str]:
        """Identity that a continued training compares: names and sizes of the shards, and arguments of their order."""
        names = [url.rpartition("/")[2] for url in self.urls]
        return {"shards": sha256(repr([names, self.counts, self.shuffle_window, self.seed]).encode())}

    def _stretch(self, epoch: int, begin: int, end: int) -> Iterator[tuple[int, Item]]:
        """(index, item) at the places begin .. end - 1 of an epoch's sequence."""
        order = random_stream("shards", self.seed, epoch).permutation(len(self.urls))
        ends = np.cumsum(np.array(self.counts)[order])
        for position in range(int(np.searchsorted(ends, begin, side="right")), len(order)):
            shard = int(order[position])
            start = int(ends[position]) - self.counts[shard]
            if start >= end:
                return
            yield from self._shuffled(epoch, shard, max(begin - start, 0), min(end - start, self.counts[shard]))

    def _shuffled(self, epoch: int, shard: int, begin: int, end: int) -> Iterator[tuple[int, Item]]:
        """(index, item) at the places begin .. end - 1 of a shard's shuffled order."""
        window = self.shuffle_window
        first = begin // window * window
        samples = self._samples(shard, first)
        for start in range(first, end, window):
            items = list(itertools.islice(samples, window))
            order = random_stream("window", self.seed, epoch, shard, start).permutation(len(items))
            for number in order[max(begin - start, 0) : end - start]:
                yield int(self._starts[shard]) + start + int(number), items[number]

    def _samples(self, shard: int, first: int) -> Iterator[Item]:
        """The samples of a shard from `first` on: as many as its count says, whatever the file holds."""
        url, count = self.urls[shard], self.counts[shard]
        number, cause = 0, "the shard ends before"
        try:
            for sample in itertools.islice(shard_files.read_samples(url), count):
                if number >= first:
                    yield partial(self._decode, url, sample)
                number += 1
        except shard_files.READ_ERRORS as error:
            cause = f"the shard cannot be read on: {type(error).__name__}: {error.args[0] if error.args else ''}"
        for missing in range(max(number, first), count):
            yield partial(_refuse, f"{url}[{missing}]", cause)

    def _decode(self, url: str, sample: dict[str, Any]) -> RawImage:
        name = f"{url}/{sample['__key__']}"
        kinds = [kind for kind in sample if f".{kind}" in SUFFIXES]
        if not kinds:
            _refuse(name, f"no image, only {', '.join(kind for kind in sample if not kind.startswith('__'))}")
        label = sample.get("cls", b"-1").strip()
        if not label.removeprefix(b"-").isdigit():
            _refuse(name, f"its label is {label[:40]!r}, expected a whole number")
        text = None
        if self.text is not None:
            if self.text not in sample:
                _refuse(name, f"no text: the sample has no .{self.text}")
            text = sample[self.text].decode("utf-8", "replace")
        image = read_rgb(f"{name}.{kinds[0]}", self.max_pixels, sample[kinds[0]])
        return RawImage(image, int(label), f"{name}.{kinds[0]}", text)


def _refuse(name: str, cause: str) -> Any:
    raise UnreadableImageError(f"cannot read {name}: {cause}", name, cause)


def _counts(urls: Sequence[str], index: str | None) -> list[int]:
    """The number of samples of each shard."""
    remote = [url for url in urls if not shard_files.is_local(url)]
    path = index or f"{os.path.dirname(urls[0]) or '.'}/{shard_files.INDEX}"
    if index is None and not remote and not os.path.isfile(path):
        logger.info("counting the samples of %d shards; scripts/make_shards.py --count writes them down", len(urls))
        return [shard_files.count_local(url) for url in urls]
    try:
        listed = shard_files.read_index(path)["shardlist"]
    except OSError as error:
        raise ValueError(
            f"no index of the shards at {path} ({error}): expected their numbers of samples, without which a training "
            f"could not go on at the right one. Write it with scripts/make_shards.py --count '{urls[0]}' ... --output "
            "index.json, and give it as `index`"
        ) from error
    shards = {shard["url"].rpartition("/")[2]: shard for shard in listed}
    names = [url.rpartition("/")[2] for url in urls]
    if absent := [name for name in names if name not in shards]:
        raise ValueError(f"{path} does not name {len(absent)} of the shards, e.g. {absent[0]!r}: write it again")
    for url, name in zip(urls, names, strict=True):
        expected = shards[name].get("filesize")
        if shard_files.is_local(url) and expected is not None and os.path.getsize(url) != expected:
            raise ValueError(
                f"{url} has {os.path.getsize(url)} bytes, its index {path} expects {expected}: copy the shard again, "
                "or write the index again"
            )
    return [shards[name]["nsamples"] for name in names]
