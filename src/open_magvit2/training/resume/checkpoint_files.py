"""Checkpoint files are whole or not there: written atomically, linked by name, and checked before use."""

import errno
import logging
import os
import pickle
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from open_magvit2.common import checkpoints
from open_magvit2.common.files import PARTIAL, atomic_writer, partial_path, sync_folder

logger = logging.getLogger(__name__)

LAST = "last.ckpt"
STOPPED = "stopped-at-"  # begins the name of a file that a training wrote when it ended itself
# A flipped bit in a name is no UTF-8 (ValueError), in a flag asks for a password (RuntimeError), in a length points
# beyond the file (EOFError, OSError).
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoint files, on `write` and `open_magvit2.common.checkpoints.read`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See `write`; there are no storage options."""
        if storage_options is not None:
            raise ValueError(f"checkpoints are local files, which take no storage_options, got {storage_options}")
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content on the CPU. No code from the file is executed unless `weights_only=False` allows that."""
        if weights_only is False:
            return super().load_checkpoint(path, map_location, weights_only)
        return checkpoints.read(path)


def write(content: dict[str, Any], path: Path) -> None:
    """Save a dictionary with `torch.save`; a reader of `path` finds the old file or the new one, whole.

    Raises:
        OSError: if it cannot be written (a full disk, no permission); `path` is then unchanged.
    """
    try:
        with atomic_writer(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise _failure(error, path) from error


def alias(path: Path, name: str) -> None:
    """Make `name`, in the same folder, the same file: a hard link, or a copy on a file system without links."""
    target = path.with_name(name)
    partial = partial_path(target)
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(path, partial)
        except OSError:
            shutil.copyfile(path, partial)
        os.replace(partial, target)
    except OSError as error:
        raise _failure(error, target) from error
    finally:
        partial.unlink(missing_ok=True)  # to move a link onto another link of the same file leaves both
    sync_folder(path.parent)


def set_aside(folder: Path, steps: range) -> Path | None:
    """Rename step_*.ckpt of some steps, whose weights may be ruined, so that `last` takes them only without others.

    Returns:
        the newest file of an earlier step, which last.ckpt then is, or None.
    """
    before: list[Path] = []
    for path in sorted(folder.glob("step_*.ckpt")):
        step = int(path.stem.removeprefix("step_"))
        if step in steps:
            path.replace(path.with_name(f"{STOPPED}{step}.ckpt"))
        elif step < steps.start:
            before.append(path)
    if not before:
        (folder / LAST).unlink(missing_ok=True)
        return None
    alias(before[-1], LAST)
    return before[-1]


def remove_partial_files(folder: Path) -> None:
    """Delete the half-written files of killed processes."""
    for path in folder.glob(f".*.ckpt*{PARTIAL}"):
        logger.warning("deleting %s, left by a run that was killed while it wrote", path)
        path.unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """The fault of a checkpoint file, or None for a whole one.

    A `.ckpt` is a zip archive: its directory is at the end, missing from a file cut short, and holds a CRC-32 of every
    part. All are checked, which reads the file once. PyTorch's own reader checks the directory too.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"wrong checksum of {broken}"
        _without_weights(path)
    except pickle.UnpicklingError:
        return None  # whole; `checkpoints.read` judges the content
    except _DAMAGED as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


def recency(path: Path) -> tuple[bool, int, int, str]:
    """A key by which the newest of several checkpoint files is the largest.

    The training step in the file decides, since clocks and copies change times, which only break ties. A file of a
    training that stopped itself ranks below all others: its weights may be ruined.
    """
    try:
        step = _without_weights(path)["global_step"]
    except (*_DAMAGED, pickle.UnpicklingError, KeyError, TypeError):
        number = re.search(r"(\d+)$", path.stem)
        step = int(number[1]) if number else -1
    return not path.name.startswith(STOPPED), step, path.stat().st_mtime_ns, path.name


def _without_weights(path: Path) -> Any:
    return torch.load(path, map_location="meta", weights_only=True, mmap=True)


def newest_whole(paths: Iterable[Path]) -> Path | None:
    """The newest whole checkpoint file, None without any file; damaged ones are skipped with a warning.

    Raises:
        ValueError: if there are files, and all are damaged.
    """
    names = {(path.stat().st_dev, path.stat().st_ino): path for path in sorted(paths) if path.is_file()}
    files = sorted(names.values(), key=recency, reverse=True)  # of links to one file the last name, step_*.ckpt
    for path in files:
        problem = damage(path)
        if problem is None:
            return path
        logger.warning("%s is damaged (%s): skipping it for the next older checkpoint", path, problem)
    if files:
        raise ValueError(
            f"all {len(files)} checkpoint(s) are damaged, the newest is {files[0]}. Give another one by "
            "--ckpt_path FILE, or move them away to begin anew"
        )
    return None


def _failure(error: BaseException, path: Path) -> OSError:
    """An error that names the file and the system's reason, which PyTorch hides."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    return OSError(
        getattr(cause, "errno", None) or errno.EIO,
        f"the checkpoint {path} could not be written ({cause or error}); {free:,} bytes are free there. Earlier "
        "checkpoints are whole: free some space, and continue with --ckpt_path last",
    )
