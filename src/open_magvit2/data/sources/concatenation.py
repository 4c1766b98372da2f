"""Several sources one after the other, e.g. file lists with a root each."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from open_magvit2.common.files import sha256
from open_magvit2.data.dataset import ImageDataset, Source, is_stream, source_paths


class Concatenation(ImageDataset):
    """All images of several sources with random access, each once an epoch; labels are as each source has them.

    Class folders number their classes from 0 in each source. File lists say the labels themselves.

    Args:
        sources: e.g. an `ImageFolder` with `root` and `file_list` for every disk.

    Raises:
        ValueError: without a source, or for a stream: `Mixture` takes those.
    """

    def __init__(self, sources: list[Source]) -> None:
        streams = [type(source).__name__ for source in sources if is_stream(source)]
        if not sources or streams:
            raise ValueError(f"expected sources with random access, got {streams or 'none'}; Mixture takes streams")
        self.sources = sources
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> Any:
        """Image `index`, counted over all sources in order."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        source = self.sources[which]
        read = getattr(source, "__getitem__", None) or source.read
        return read(index - int(self._ends[which]) + len(source))

    def relative_paths(self) -> list[str]:
        """The sources' names of their images, behind the number of the source: "0/n01440764/a.JPEG", ..."""
        return [f"{number}/{path}" for number, source in enumerate(self.sources) for path in source_paths(source)]

    def identity(self) -> dict[str, str]:
        """Identity that a continued training compares: those of the sources."""
        facts: Sequence[Any] = [source.identity() if hasattr(source, "identity") else {} for source in self.sources]
        return {"sources": sha256(repr(facts).encode())}
