"""Images of Hugging Face `datasets`: a set on the Hub by its name, or a folder or parquet files on a disk."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from PIL import Image

from open_magvit2.common.arguments import integer
from open_magvit2.common.extras import extra
from open_magvit2.common.files import sha256
from open_magvit2.data.dataset import ImageDataset, RawImage, Source
from open_magvit2.data.decoding import MAX_PIXELS, UnreadableImageError, read_rgb


class HuggingFaceImages(ImageDataset):
    """A data set with random access, downloaded or read in place.

    Args:
        path: name on the Hub ("ILSVRC/imagenet-1k"), a local folder, or a loader such as "parquet" or "imagefolder".
        split: of the data set.
        image_column, label_column: names of columns; None for no labels.
        options: of `datasets.load_dataset`: name, data_files, data_dir, revision, cache_dir, ...
        max_pixels: an image that claims more, width times height, is unreadable.

    Raises:
        ValueError: for a data set without such a column or split, naming those it has.
        UserError: without the package datasets.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = None,
        options: dict[str, Any] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._rows = _load(path, split, image_column, label_column, options, is_streaming=False)
        self._decode = partial(_decode, path, image_column, label_column, max_pixels)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> RawImage:
        """Decode image `index` as RGB."""
        return self._decode(index, self._rows[index])

    def identity(self) -> dict[str, str]:
        """Identity that a continued training compares: the fingerprint that `datasets` gives the data."""
        return {"fingerprint": self._rows._fingerprint}


class HuggingFaceStream(Source):
    """A data set that is read over the network, or from a disk, in the order of its files.

    Files are shared by the loading processes where there are enough of them; else every process reads all, and keeps
    its share. Every epoch has another order of files, and a buffer is shuffled. A resumed training reads again what it
    has seen, without decoding it: for long trainings, shards (`sources.shards`) begin at the right sample at once.

    Args:
        path, split, image_column, label_column, options, max_pixels: of `HuggingFaceImages`.
        shuffle_buffer: images of the buffer; 1 leaves the order of the files.
        seed: of the order.

    Raises:
        ValueError, UserError: as `HuggingFaceImages`.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        image_column: str = "image",
        label_column: str | None = None,
        options: dict[str, Any] | None = None,
        shuffle_buffer: int = 256,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        integer(1, shuffle_buffer=shuffle_buffer)
        integer(0, seed=seed)
        self._rows = _load(path, split, image_column, label_column, options, is_streaming=True)
        self._decode = partial(_decode, path, image_column, label_column, max_pixels)
        self.shuffle_buffer, self.seed = shuffle_buffer, seed
        self._facts = (path, split, image_column, label_column, options, shuffle_buffer, seed)

    def __iter__(self) -> Iterator[Callable[[], RawImage]]:
        return self._items(self._rows, 0, 1)

    def iterate(self, epoch: int, part: int, num_parts: int) -> Iterator[Callable[[], RawImage]]:
        """See `streaming.parts_of`."""
        rows = self._rows
        if self.shuffle_buffer > 1:
            rows = rows.shuffle(self.seed + epoch, buffer_size=self.shuffle_buffer, max_buffer_input_shards=1)
        if rows.num_shards >= num_parts:
            return self._items(rows.shard(num_parts, part), 0, 1)
        return self._items(rows, part, num_parts)

    def identity(self) -> dict[str, str]:
        """Identity that a continued training compares: the arguments."""
        return {"stream": sha256(repr(self._facts).encode())}

    def _items(self, rows: Any, part: int, num_parts: int) -> Iterator[Callable[[], RawImage]]:
        # `iter(rows)` would divide the files among the loading processes once more; batches of one do not.
        batches = enumerate(rows.iter(batch_size=1))
        for index, batch in itertools.islice(batches, part, None, num_parts):
            yield partial(self._decode, index, {name: values[0] for name, values in batch.items()})


def _load(
    path: str,
    split: str,
    image_column: str,
    label_column: str | None,
    options: dict[str, Any] | None,
    is_streaming: bool,
) -> Any:
    """The rows of the wanted columns, with images as the bytes of their files."""
    datasets = extra("datasets", "data")
    try:
        rows = datasets.load_dataset(path, split=split, streaming=is_streaming, **(options or {}))
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"no data set {path!r}: {error}; expected a name on the Hub, a local folder, or a loader such as 'parquet' "
            "with options {data_files: ...}"
        ) from error
    columns = [name for name in (image_column, label_column) if name is not None]
    present = rows.column_names if rows.column_names is not None else columns
    if absent := [name for name in columns if name not in present]:
        raise ValueError(f"{path} has no column {absent[0]!r}; it has {', '.join(present)}: name one of them")
    rows = rows.select_columns(columns)
    return rows.cast_column(image_column, datasets.Image(decode=False))


def _decode(
    path: str, image_column: str, label_column: str | None, max_pixels: int, index: int, row: dict[str, Any]
) -> RawImage:
    name, stored = f"{path}[{index}]", row[image_column]
    label = -1 if label_column is None or row[label_column] is None else int(row[label_column])
    if isinstance(stored, Image.Image):
        return RawImage(stored, label, name)
    content, file = (stored or {}).get("bytes"), (stored or {}).get("path")
    if content is None and file is None:
        raise UnreadableImageError(f"cannot read {name}: no image in the row", name, "no image in the row")
    if content is not None:
        return RawImage(read_rgb(name, max_pixels, content), label, name)
    return RawImage(read_rgb(file, max_pixels), label, file)
