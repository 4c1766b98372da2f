"""Checkpoint files that are whole or not there: written beside, synced, moved into place, and checked before use."""

import errno
import logging
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from open_magvit2.common import checkpoints

logger = logging.getLogger(__name__)

_PARTIAL = ".partial"  # ends the name of a file that is being written, which begins with a dot


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint reading and writing, through `write` and `open_magvit2.common.checkpoints.read`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """See `write`; there are no storage options."""
        if storage_options is not None:
            raise ValueError(f"checkpoints are written to local files, which take no storage_options {storage_options}")
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content on the CPU, without executing code from it, unless `weights_only=False` asks for that."""
        if weights_only is False:
            return super().load_checkpoint(path, map_location, weights_only)
        return checkpoints.read(path)


def write(content: dict[str, Any], path: Path) -> None:
    """Save a dictionary with `torch.save`: whoever opens `path`, whenever, finds the old file or the new one, whole.

    Raises:
        OSError: if it cannot be written (a full disk, no permission); `path` is then what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise _failure(error, path) from error
    _sync(path.parent)


def alias(path: Path, name: str) -> None:
    """Let `name`, in the same folder, be the same file: a hard link, or a copy where the file system has none."""
    target = path.with_name(name)
    partial = _partial(target)
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(path, partial)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            shutil.copyfile(path, partial)
        os.replace(partial, target)
    except OSError as error:
        raise _failure(error, target) from error
    finally:
        partial.unlink(missing_ok=True)  # moving a link onto another link of the same file leaves both
    _sync(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Delete what a process that was killed while it wrote left behind."""
    for path in folder.glob(f".*.ckpt{_PARTIAL}"):
        logger.warning("deleting %s, left by a run that was killed while it wrote", path)
        path.unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None for a whole one.

    A `.ckpt` is a zip archive: its directory stands at the end, so that a file cut short has none, and holds a CRC-32
    of every part, which are all checked. It reads the file once and needs no memory. PyTorch's own reader is stricter
    with the directory, and so is asked as well; what the file holds is judged by whoever reads it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"the checksum of {broken} does not agree"
        torch.load(path, map_location="meta", weights_only=True, mmap=True)  # the directory, and no weights
    except pickle.UnpicklingError:
        return None
    # Besides BadZipFile: a damaged name is no UTF-8 (ValueError), damaged flags ask for a password or another version
    # of the format (RuntimeError), a damaged length ends beyond the file (EOFError, OSError).
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


def newest_whole(paths: Iterable[Path]) -> Path | None:
    """The checkpoint file written last among those that are whole; a damaged one is skipped with a warning.

    Returns:
        its path, or None if there is no file at all.

    Raises:
        ValueError: if there are files, and all are damaged: that run needs a person to look at it.
    """
    files: dict[tuple[int, int], Path] = {}
    for path in sorted(paths):
        if path.is_file():
            status = path.stat()
            # one file under two names is checked once, and named by its step
            files[status.st_dev, status.st_ino] = path
    newest_first = sorted(files.values(), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    for path in newest_first:
        problem = damage(path)
        if problem is None:
            return path
        logger.warning("%s is damaged (%s): skipping it for the next older checkpoint", path, problem)
    if newest_first:
        raise ValueError(
            f"all {len(newest_first)} checkpoint(s) are damaged, the newest is {newest_first[0]}. Give another one by "
            "--ckpt_path FILE, or move them away to begin anew"
        )
    return None


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{_PARTIAL}")


def _sync(folder: Path) -> None:
    """Let the folder's new entry survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(error: BaseException, path: Path) -> OSError:
    """An error of writing that names the file and says what is still there; PyTorch hides the system's own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    number = cause.errno if isinstance(cause, OSError) and cause.errno is not None else errno.EIO
    reason = cause if cause is not None else error
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    return OSError(
        number,
        f"the checkpoint {path} could not be written ({reason}); {free:,} bytes are free there. Checkpoints written "
        "before are whole: make room, and continue with --ckpt_path last",
    )
