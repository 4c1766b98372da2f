"""The check of a folder names every broken file and counts what is odd; its list makes the folder whole."""

import faulthandler
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run
from image_bytes import png, png_that_claims
from PIL import Image

from open_magvit2.common.files import sha256_of
from open_magvit2.data import checking, isolation
from open_magvit2.data.checking import check_folder, leave_out_broken
from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.image_files import write_list
from open_magvit2.data.sources.image_folder import ImageFolder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/check_dataset.py"
BROKEN = {
    "n01/cut.JPEG": "truncated",
    "n01/zero.png": "empty file (0 bytes)",
    "n02/page.jpg": "no image of the formats",
    "n02/link.png": "broken link",
    os.fsdecode(b"n03/bomb \xe9.png"): "DecompressionBombError",
}


@pytest.fixture
def folder(tmp_path):
    """Two whole photos in each of three classes, broken files, and one file of each oddity in a fourth."""
    root = tmp_path / "train"
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    for number in range(6):
        path = root / f"n0{number // 2 + 1}/photo {number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(noise, number)).save(path)
    content = path.read_bytes()
    (root / "n01/cut.JPEG").write_bytes(content[: len(content) // 2])
    (root / "n01/zero.png").touch()
    (root / "n02/page.jpg").write_text("<html>404</html>")
    (root / "n02/link.png").symlink_to(root / "nowhere.png")
    with open(os.path.join(os.fsencode(root), b"n03/bomb \xe9.png"), "wb") as file:
        file.write(png_that_claims(60_000, 60_000))
    odd = root / "n04"
    odd.mkdir()
    (odd / "png.JPEG").write_bytes(png(noise, 2))
    (odd / "deep.png").write_bytes(png(noise[..., 0].astype(np.uint16), 0))
    (odd / "alpha.png").write_bytes(png(np.concatenate([noise, noise[..., :1]], -1), 6))
    Image.new("RGB", (9, 300)).save(odd / "narrow.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(odd / "rotated.jpg", exif=exif)
    shutil.copy(path, odd / "copy.jpg")
    return root


def test_everything_is_found_and_counted(folder):
    images = ImageFolder(folder)
    report = check_folder(images, image_size=32, duplicates=True, num_workers=2, progress=False)
    assert report.num_images == len(images) == 17
    assert report.broken.keys() == BROKEN.keys()
    for name, cause in BROKEN.items():
        assert cause in report.broken[name]
    assert report.class_sizes == {"n01": 2, "n02": 2, "n03": 2, "n04": 6}
    assert report.formats == {"JPEG": 8, "PNG": 4}
    assert report.modes == {"RGB": 10, "RGBA": 1, "I;16": 1}
    assert report.shorter_sides == {64: 11, 9: 1}
    assert report.oddities.examples == {
        checking.DIFFERENT_FORMAT: ["n04/png.JPEG"],
        checking.TRANSPARENT: ["n04/alpha.png"],
        checking.SMALL: ["n04/narrow.png"],
        checking.ROTATED: ["n04/rotated.jpg"],
    }
    assert report.duplicates == [["n03/photo 5.JPEG", "n04/copy.jpg"]]


def test_the_list_leaves_out_what_cannot_be_read_and_nothing_else(folder, tmp_path):
    images = ImageFolder(folder)
    write_list(tmp_path / "lists/broken.txt", check_folder(images, progress=False).broken)
    whole = ImageFolder(folder, exclude=tmp_path / "lists/broken.txt")
    assert (len(whole), whole.num_excluded) == (12, 5)
    assert all(whole[index].image for index in range(12))
    unreadable = 0
    for index in range(len(images)):
        try:
            images[index]
        except UnreadableImageError:
            unreadable += 1
    assert unreadable == 5


def test_a_file_that_kills_the_decoder_is_named_and_survived(folder):
    class Deadly(ImageFolder):
        """Stands for a decoder that crashes on a file; `test_isolation.py` has those that loop."""

        parent = os.getpid()

        def relative_path(self, index):
            path = super().relative_path(index)
            if os.getpid() != self.parent and path == "n01/photo 1.JPEG":
                faulthandler.disable()  # pytest's, which would print where
                os.kill(os.getpid(), signal.SIGSEGV)
            return path

    report = check_folder(Deadly(folder), num_workers=2, progress=False)
    assert len(report.broken) == 6
    assert report.broken["n01/photo 1.JPEG"] == "killed its process by SIGSEGV"


@pytest.mark.parametrize(("num_workers", "started"), [(0, 3), (1, 1)])
def test_broken_images_are_left_out_and_looked_for_on_every_core(folder, monkeypatch, num_workers, started):
    workers, start = [], isolation._start

    def noted(*arguments):
        workers.append(start(*arguments))
        return workers[-1]

    monkeypatch.setattr(isolation, "_start", noted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5})
    images = ImageFolder(folder)
    assert set(leave_out_broken(images, num_workers)) == set(BROKEN)
    assert len(images) == 12
    assert len(workers) == started


def test_names_with_line_breaks_of_250_bytes_or_no_utf8_pass_through_the_report_and_the_list(tmp_path):
    root = tmp_path / "images"
    (root / "class").mkdir(parents=True)
    names = ["a\nb\tc.png", "\\n.png", os.fsdecode(b"\xff" * 246 + b".png")]
    for name in names:
        (root / "class" / name).touch()
    Image.new("RGB", (4, 4)).save(root / "class/whole.png")
    found = run(sys.executable, SCRIPT, root, "--write-list", tmp_path / "list.txt", check=False)
    assert found.returncode == 1
    assert "4 images, 1 whole, 3 broken" in found.stdout
    assert r"broken: \class/a\nb\tc.png: empty file" in found.stdout
    assert ImageFolder(root, exclude=tmp_path / "list.txt").relative_paths() == ["class/whole.png"]


def test_the_report_comes_before_a_list_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "list.txt").mkdir()
    found = run(sys.executable, SCRIPT, folder, "--write-list", tmp_path / "list.txt", check=False)
    assert found.returncode == 2
    assert "17 images, 12 whole, 5 broken" in found.stdout
    assert "list.txt" in found.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_the_list_is_written_also_where_the_report_cannot_be(folder, tmp_path):
    line = f"{sys.executable} {SCRIPT} {folder} --write-list {tmp_path}/list.txt > /dev/full"
    found = run("bash", "-c", line, check=False)
    assert found.returncode == 2
    assert "No space left" in found.stderr
    assert len((tmp_path / "list.txt").read_bytes().splitlines()) == 5


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_what_is_no_file_is_broken_and_hangs_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("gone")
    Image.new("RGB", (4, 4)).save(tmp_path / "whole.png")
    report = check_folder(ImageFolder(tmp_path), duplicates=True, progress=False)
    assert report.broken == {
        "pipe.png": "not a regular file",
        "zeros.png": "not a regular file",
        "circle.png": "OSError: Too many levels of symbolic links",
    }
    assert report.left_out.lines() == ["2 files without suffix, e.g. circle, nowhere"]
    for name in report.broken:
        with pytest.raises(OSError, match="not a regular file|Too many levels"):
            sha256_of(tmp_path / name)


def test_the_pixel_limit_can_be_raised_and_lowered(tmp_path):
    Image.new("L", (20, 10)).save(tmp_path / "small.png")
    broken = check_folder(ImageFolder(tmp_path, max_pixels=199), progress=False).broken
    assert "20 x 10 pixels, more than 199" in broken["small.png"]
    assert "--max-pixels" in broken["small.png"]
    assert not check_folder(ImageFolder(tmp_path, max_pixels=200), progress=False).broken
    (tmp_path / "small.png").write_bytes(png_that_claims(20_000, 10_000))
    assert "DecompressionBombError" in check_folder(ImageFolder(tmp_path), progress=False).broken["small.png"]
    command = [sys.executable, SCRIPT, tmp_path, "--max-pixels", "200000000"]
    assert "truncated" in run(*command, check=False).stdout


def test_by_command_line(folder, tmp_path):
    listed = tmp_path / "broken.txt"
    command = [sys.executable, SCRIPT, folder, "--num-workers", "2", "--image-size", "32", "--write-list", listed]
    found = run(*command, check=False)
    assert found.returncode == 1
    assert "17 images, 12 whole, 5 broken" in found.stdout
    assert "broken: n01/cut.JPEG: " in found.stdout
    assert r"broken: n03/bomb \udce9.png: " in found.stdout
    assert "5 broken images listed in" in found.stdout
    assert "17/17" in found.stderr  # the progress bar
    assert len(listed.read_bytes().splitlines()) == 5


def test_exit_codes(folder, tmp_path, monkeypatch, capsys):
    def script(*arguments):
        monkeypatch.setattr("sys.argv", ["check_dataset.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return caught.value.code, *capsys.readouterr()

    listed = tmp_path / "broken.txt"
    listed.write_bytes(b"".join(os.fsencode(name) + b"\n" for name in BROKEN))
    code, out, _ = script(folder, "--exclude", listed)
    assert code == 0
    assert "12 images, 12 whole, 0 broken" in out
    assert script(folder)[0] == 1
    code, _, error = script(tmp_path / "nowhere")
    assert code == 2
    assert "does not exist" in error
