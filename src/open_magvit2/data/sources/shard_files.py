"""WebDataset shards as files: opened by URL, read sample by sample, counted, and the index that holds their counts.

The index is WebDataset's JSON form: {"shardlist": [{"url": "00000.tar", "nsamples": 1000, ...}, ...]}. It makes every
place in a set of shards a plain number. A url is a name next to the index, or a whole URL.
"""

import contextlib
import json
import os
import re
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from open_magvit2.common.extras import extra
from open_magvit2.common.files import sha256_of, write_atomically

INDEX = "index.json"
_KIND = {"__kind__": "wids-shard-index-v1", "wids_version": 1}
_NO_SAMPLE = re.compile(r"__[^/]*__($|/)")  # WebDataset's name for a shard's own notes
READ_ERRORS = (OSError, EOFError, ValueError, tarfile.TarError)  # of a shard that is damaged, or of its network


def expand(urls: str | Sequence[str]) -> list[str]:
    """URLs or paths in order, with braces expanded: "train/{000..099}.tar" is a hundred.

    Raises:
        ValueError: if there is none, or one is there twice.
    """
    shardlists = extra("webdataset.shardlists", "data")
    patterns = [urls] if isinstance(urls, str) else list(urls)
    expanded = [os.path.expanduser(url) for pattern in patterns for url in shardlists.expand_urls(pattern)]
    if not expanded or len(set(expanded)) < len(expanded):
        raise ValueError(f"expected the URLs of shards, each once, got {patterns}")
    return expanded


def is_local(url: str) -> bool:
    """Whether a URL is a plain path."""
    return "://" not in url and not url.startswith("pipe:")


def open_url(url: str) -> IO[bytes]:
    """Open a path, https://, s3:// or whatever else WebDataset opens, for reading.

    WebDataset reads https:// with curl. It has no opener of its own for s3://, and documents this pipe instead: the
    command line of AWS, which finds the user's credentials.

    Raises:
        OSError, ValueError: if it cannot be opened; a failure of the command shows at the first read or at the end.
    """
    gopen = extra("webdataset.gopen", "data")
    return gopen.gopen(f"pipe:aws s3 cp {shlex.quote(url)} -" if url.startswith("s3://") else url)


def read_samples(url: str) -> Iterator[dict[str, Any]]:
    """The samples of a shard in its order: {"__key__": "000/0001", "jpg": bytes, "cls": bytes, ...}.

    Raises:
        READ_ERRORS: for a shard that is not there, no tar file, or ends early.
    """
    reading = extra("webdataset.tariterators", "data")
    stream = open_url(url)
    try:
        yield from reading.group_by_keys(reading.tar_file_expander([{"url": url, "stream": stream}]))
    except tarfile.TarError:
        stream.close()  # where the opener's command failed, this says so: better than "empty file"
        raise
    finally:
        with contextlib.suppress(OSError):  # a command that was not read to its end
            stream.close()


def count_local(path: str) -> int:
    """The number of samples of a shard on a disk, from its headers alone.

    Raises:
        OSError, ValueError: if it is not there, or no tar file.
    """
    reading = extra("webdataset.tariterators", "data")
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member in archive if member.isreg() and not _NO_SAMPLE.match(member.name)]
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is no tar file: {error}; expected a WebDataset shard") from error
    files = ({"fname": name, "data": b"", "__url__": path} for name in names)
    return sum(1 for _ in reading.group_by_keys(files))


def index_of(shards: Sequence[dict[str, Any]], **facts: Any) -> str:
    """The text of an index file.

    Args:
        shards: "url" and "nsamples" of each, in order; "filesize" and "sha256" where they are known.
        facts: more of the whole set.
    """
    return json.dumps({**_KIND, **facts, "shardlist": list(shards)}, indent=1) + "\n"


def read_index(url: str) -> dict[str, Any]:
    """The content of an index file.

    Raises:
        OSError: if it is not there.
        ValueError: if it is no index.
    """
    with open_url(url) as file:
        content = file.read()
    try:
        index = json.loads(content)
        for shard in index["shardlist"]:
            shard["url"], shard["nsamples"] = str(shard["url"]), int(shard["nsamples"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{url} is no index of shards ({type(error).__name__}: {error}); expected {{"shardlist": [{{"url": ..., '
            '"nsamples": ...}, ...]}'
        ) from error
    return index


def count_all(urls: Sequence[str], output: Path, progress: Any = lambda _: None) -> int:
    """Read shards that others made, once, and write their index.

    Args:
        urls: of the shards.
        output: the index file.
        progress: told the number of shards that were counted since it was last called.

    Returns:
        number of samples.

    Raises:
        READ_ERRORS: of `read_samples`.
    """
    shards = []
    for url in urls:
        number = count_local(url) if is_local(url) else sum(1 for _ in read_samples(url))
        size = {"filesize": os.path.getsize(url)} if is_local(url) else {}
        shards.append({"url": os.path.abspath(url) if is_local(url) else url, "nsamples": number, **size})
        progress(1)
    write_atomically(output, index_of(shards))
    return sum(shard["nsamples"] for shard in shards)


def damaged_files(folder: Path, progress: Any = lambda _: None) -> list[str]:
    """Names of the shards of a folder that differ from the checksums in its index.

    Raises:
        OSError, ValueError: of `read_index`.
    """
    damaged = []
    for shard in read_index(str(folder / INDEX))["shardlist"]:
        path = folder / shard["url"]
        if not path.is_file() or ("sha256" in shard and sha256_of(path) != shard["sha256"]):
            damaged.append(shard["url"])
        progress(1)
    return damaged
