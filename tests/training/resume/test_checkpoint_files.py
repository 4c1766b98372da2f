"""Checkpoint files are whole or not there: processes really killed, disks really full, files really cut short."""

import io
import logging
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch

from open_magvit2.common import checkpoints
from open_magvit2.training.resume.checkpoint_files import alias, damage, newest_whole, remove_partial_files, write


def save(path: Path, step: int, age: float = 0.0, size: int = 1000) -> Path:
    """A checkpoint written `age` seconds ago."""
    write({"global_step": step, "state_dict": {"weight": torch.full((size,), float(step))}}, path)
    written = time.time() - age
    os.utime(path, (written, written))
    return path


def write_and_stop(path: Path, stage: str, reached: Path) -> None:
    """In a process of its own: write checkpoint 1 over another one, and stop at a stage of it until the kill."""

    def stop(*_):
        reached.touch()
        time.sleep(3600)

    def save_half(content, file, save=torch.save):
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        stop()

    torch.save = save_half if stage == "half written" else torch.save
    os.fsync = stop if stage == "before the sync" else os.fsync
    os.replace = stop if stage == "before the move" else os.replace
    save(path, 1, size=200_000)


@pytest.mark.parametrize("stage", ["half written", "before the sync", "before the move"])
def test_a_kill_during_the_write_leaves_a_whole_file(tmp_path, stage):
    folder, reached = tmp_path / "checkpoints", tmp_path / "reached"
    path = save(folder / "last.ckpt", 0, size=200_000)
    process = multiprocessing.get_context("fork").Process(target=write_and_stop, args=(path, stage, reached))
    process.start()
    while not reached.exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(os.listdir(folder)) == 2  # the partial file is here
    assert damage(path) is None
    content = checkpoints.read(path)
    assert content["global_step"] == 0
    assert torch.equal(content["state_dict"]["weight"], torch.zeros(200_000))
    remove_partial_files(folder)
    assert os.listdir(folder) == ["last.ckpt"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_an_error_that_keeps_the_old_file(small_disk):
    path = save(small_disk / "last.ckpt", 1, size=40_000)
    with pytest.raises(OSError, match=r"last\.ckpt could not be written .*No space left.*bytes are free") as caught:
        save(path, 2, size=40_000)
    assert caught.value.errno == 28
    assert damage(path) is None
    assert checkpoints.read(path)["global_step"] == 1
    assert os.listdir(small_disk) == ["last.ckpt"]  # and the room is free again


def test_a_folder_that_may_not_be_written_is_an_error_too(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="exists"):
        save(tmp_path / "file" / "last.ckpt", 1)


def cut(path: Path) -> None:
    """As a full disk or a crashed file server leaves it."""
    path.write_bytes(path.read_bytes()[:-500])


def flip(path: Path) -> None:
    """One bit of a weight, as a bad disk does it."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((9,), 3.0).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_flipped_bit_is_read_as_something_else(tmp_path):
    """Every byte of a small file: weights, names, lengths and flags alike.

    (Of all bits of such a file two are not seen: the mark of a folder, which PyTorch's reader believes on its data.)
    """
    path = save(tmp_path / "step_1.ckpt", 1, size=5)
    content = path.read_bytes()
    seen = 0
    for position in range(len(content)):
        harmed = bytearray(content)
        harmed[position] ^= 1 << (0, 5, 7)[position % 3]
        path.write_bytes(harmed)
        if damage(path) is not None:
            seen += 1
            continue
        read = torch.load(path, weights_only=True)  # padding, dates
        assert read["global_step"] == 1
        assert torch.equal(read["state_dict"]["weight"], torch.ones(5))
    assert seen > 0.4 * len(content)


@pytest.mark.parametrize("harm", [cut, flip, empty])
def test_a_damaged_newest_file_is_skipped_with_a_warning_that_names_it(tmp_path, caplog, harm):
    older, newest = save(tmp_path / "step_2.ckpt", 2, age=60), save(tmp_path / "step_3.ckpt", 3)
    assert newest_whole(tmp_path.glob("*.ckpt")) == newest
    harm(newest)
    with caplog.at_level(logging.WARNING):
        assert newest_whole(tmp_path.glob("*.ckpt")) == older
    assert f"{newest} is damaged" in caplog.text


def test_the_step_in_the_file_decides_which_one_is_the_newest(tmp_path):
    """Not the time, which a clock that is behind or a copy changes, nor a name; a training's own stop comes last."""
    save(tmp_path / "best.ckpt", 12)
    save(tmp_path / "stopped-at-99.ckpt", 99)
    newest = save(tmp_path / "last.ckpt", 40, age=7200)
    save(tmp_path / "step_39.ckpt", 39, age=-3600)
    assert newest_whole(tmp_path.glob("*.ckpt")) == newest
    assert newest_whole(tmp_path.glob("stopped*.ckpt")).name == "stopped-at-99.ckpt"


def test_only_damaged_files_are_refused_and_no_file_is_none(tmp_path):
    assert newest_whole(tmp_path.glob("*.ckpt")) is None
    path = save(tmp_path / "step_3.ckpt", 3)
    cut(path)
    with pytest.raises(ValueError, match=r"all 1 checkpoint\(s\) are damaged, the newest is .*step_3.ckpt"):
        newest_whole(tmp_path.glob("*.ckpt"))


def test_an_alias_outlives_its_file_and_follows_the_next(tmp_path):
    first, second = save(tmp_path / "step_1.ckpt", 1), save(tmp_path / "step_2.ckpt", 2)
    for path in (first, first, second):  # the same twice is fine
        alias(path, "last.ckpt")
        assert (tmp_path / "last.ckpt").samefile(path)
    second.unlink()
    assert checkpoints.read(tmp_path / "last.ckpt")["global_step"] == 2
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "step_1.ckpt"]
