"""Files are whole or not there; checksums follow the content."""

import os
from pathlib import Path

import pytest

from open_magvit2.common.files import atomic_writer, check_writable, sha256, sha256_of, with_ending, write_atomically


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a" / "file"
    write_atomically(path, "first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fails():
        with atomic_writer(path) as file:
            file.write(b"new")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fails()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_names_that_are_no_utf_8_keep_their_bytes(tmp_path):
    write_atomically(tmp_path / "list", os.fsdecode(b"caf\xe9\n"))
    assert (tmp_path / "list").read_bytes() == b"caf\xe9\n"


def test_a_checksum_follows_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert sha256_of(path) == sha256(b"one")
    path.write_bytes(b"two")
    assert sha256_of(path) == sha256(b"two")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    check_writable(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*file/below: .* at .*file; choose a folder"):
        check_writable(tmp_path / "file" / "below")


def test_a_name_with_an_ending_fits_the_file_system_and_stays_unique(tmp_path):
    assert with_ending(Path("a/b.1"), ".png") == Path("a/b.1.png")
    assert with_ending(Path("n" * 251), ".png") == Path("n" * 251 + ".png")
    names = ["n" * 254 + "1", "n" * 254 + "2", "n" * 252, "é" * 127, os.fsdecode(b"\xff" * 255)]
    found = [with_ending(tmp_path / name, ".0.png") for name in names]
    for path in found:
        path.touch()
        assert path.name.endswith(".0.png")
    assert len(os.listdir(tmp_path)) == len(names)
    assert found[3].name.startswith("é" * 110)
