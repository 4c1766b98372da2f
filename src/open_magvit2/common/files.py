"""Files that are whole or not there, and their SHA-256: one place writes atomically, one place hashes."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

PARTIAL = ".partial"  # ends the name of a file while it is being written
_LONGEST_NAME = 255  # bytes, of most file systems


def partial_path(path: Path) -> Path:
    """The temporary name of a file that this process writes.

    It begins with a dot, so that scans of the folder ignore it. It holds the process id, so that two processes never
    write to the same temporary file. Of a name near the 255 bytes of most file systems it holds a hash.
    """
    name = path.name if len(os.fsencode(path.name)) < 200 else sha256(os.fsencode(path.name))
    return path.with_name(f".{name}.{os.getpid()}{PARTIAL}")


def with_ending(path: Path, ending: str) -> Path:
    """A path with an ending after its name. A name that gets too long for file systems is cut, and ends with a hash."""
    if len(os.fsencode(path.name + ending)) <= _LONGEST_NAME:
        return path.with_name(path.name + ending)
    ending = f"~{sha256(os.fsencode(path.name))[:16]}{ending}"
    name = path.name
    while len(os.fsencode(name + ending)) > _LONGEST_NAME:
        name = name[:-1]
    return path.with_name(name + ending)


def claim(folder: Path, advice: str) -> IO[str]:
    """Lock a folder for this process, until the returned file is closed or the process ends in whatever way.

    Raises:
        ValueError: naming the process that has it, its host and since when, with the advice what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - stays open
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by forked workers
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            logger.warning("%s cannot be locked (%s): nothing keeps a second process out", folder, error)
            return file
        file.seek(0)
        raise ValueError(f"{folder} belongs to {file.read()}, which still runs: {advice}") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} (since {datetime.now():%Y-%m-%d %H:%M:%S})")
    file.flush()
    return file


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading; anything else is refused without waiting for it or reading without end.

    Raises:
        OSError: also for a named pipe, a device or a folder, with the errno EINVAL or EISDIR.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - returned
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return file


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file for writing that appears at `path` only when the block ends without an error.

    A reader of `path` sees the old content or the new one, whole, also after a kill or a loss of power. Missing
    folders are created.

    Raises:
        OSError: if the file cannot be written; `path` is then unchanged and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file with `atomic_writer`; text is encoded as UTF-8, with names that are no UTF-8 kept as bytes."""
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with atomic_writer(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a file moved into it survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(content: bytes) -> str:
    """SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file as 64 hexadecimal digits; computed once per file, size and modification time."""
    status = path.stat()
    return _sha256_of(os.path.realpath(path), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_of(path: str, inode: int, size: int, modified: int) -> str:
    with open_regular(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_writable(folder: str | Path) -> None:
    """Try, before long work, that files can be written to a folder or that it can be made; nothing is left behind.

    Raises:
        OSError: naming the folder and the obstacle.
    """
    nearest = Path(folder).absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".try", dir=nearest) as made:
            Path(made, "file").touch()
    except OSError as error:
        raise OSError(
            f"cannot write to {folder}: {error.strerror} at {nearest}; choose a folder that can be written"
        ) from error
