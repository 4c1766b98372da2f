"""Writing a cache: the same bytes whatever happens meanwhile, and an error that helps for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from commands import run
from test_cached import write_images

from open_magvit2.data.sources import cache_building
from open_magvit2.data.sources.building import BrokenImagesError
from open_magvit2.data.sources.cache_building import build, make_plan
from open_magvit2.data.sources.cached import CachedImages, verify
from open_magvit2.data.sources.image_folder import ImageFolder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "cache_dataset.py"


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name != ".lock"}


def write(source, root, images_per_file=4, num_workers=0, skip_broken=False, image_size=32):
    return build(source, root, make_plan(source, image_size, images_per_file, num_workers), num_workers, skip_broken)


@pytest.fixture
def source(tmp_path):
    return ImageFolder(write_images(tmp_path / "images"))


def test_the_size_is_known_before_and_exact(source, tmp_path):
    plan = make_plan(source, 32, 4, num_workers=0)
    assert plan.num_files == 3
    write(source, tmp_path / "cache")
    assert plan.num_bytes == sum(path.stat().st_size for path in (tmp_path / "cache").glob("pixels-*"))


@pytest.mark.long
def test_killed_in_the_middle_it_continues_to_the_same_bytes(tmp_path):
    """The command itself with two workers, killed by SIGKILL twice, each time with some of the files written."""
    images = write_images(tmp_path / "images", 240)
    size = ["--image-size", "400", "--images-per-file", "8", "--workers", "2"]
    command = [sys.executable, str(SCRIPT), "--images", str(images), "--output", str(tmp_path / "cache"), *size]
    done = []
    for most in (4, 14):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while len(list((tmp_path / "cache" / "building").glob("0*.json"))) < most and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done.append(len(list((tmp_path / "cache" / "building").glob("0*.json"))))
        assert not (tmp_path / "cache" / "cache.json").exists()
    assert 4 <= done[0] < done[1] < 30
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("pixels-*.bin")}
    output = run(*command).stdout
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "cache").glob("pixels-*.bin"))
    assert f"240 images, {num_bytes / 1e9:.3f} GB in 30 files" in output
    kept = [path for path, written in before.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= done[1]  # not written again
    whole = ImageFolder(images)
    write(whole, tmp_path / "at once", images_per_file=8, image_size=400)
    assert contents(tmp_path / "cache") == contents(tmp_path / "at once")
    assert "all checksums right" in run(sys.executable, str(SCRIPT), "--verify", str(tmp_path / "cache")).stdout


def test_a_finished_cache_is_left_as_it_is(source, tmp_path):
    assert write(source, tmp_path / "cache") == 9
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("[a-z]*")}
    assert write(source, tmp_path / "cache", num_workers=1) == 9
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("[a-z]*")}


def test_another_plan_is_refused_with_what_differs(source, tmp_path):
    write(source, tmp_path / "cache")
    with pytest.raises(ValueError, match="begun with image_size 32, expected 48; num_bytes .* Give another folder"):
        write(source, tmp_path / "cache", image_size=48)
    Path(source.path(0)).write_bytes(Path(source.path(1)).read_bytes())
    with pytest.raises(ValueError, match="sizes change when files of the source change"):
        write(source, tmp_path / "cache")


def test_a_folder_with_other_files_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match=r"holds other files \(n0, n1, n2\); expected an empty folder"):
        write(source, tmp_path / "images")


def test_a_full_disk_is_refused_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 5000)
    monkeypatch.setattr(cache_building.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"has 0.0 GB free, expected 0.0 GB still to write"):
        write(source, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("pixels*"))


def test_two_processes_do_not_write_one_cache(source, tmp_path):
    write(source, tmp_path / "cache")
    hold = "import sys; from pathlib import Path; from open_magvit2.common.files import claim; "
    hold += "f = claim(Path(sys.argv[1]), ''); print('held'); input()"
    command = [sys.executable, "-u", "-c", hold, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"cache belongs to process {other.pid} on .*: wait for it"):
            write(source, tmp_path / "cache")
        other.communicate("\n")


def test_broken_images_are_named_and_fail_or_are_left_out(source, tmp_path):
    Path(source.path(4)).write_bytes(Path(source.path(4)).read_bytes()[:200])
    Path(source.path(8)).write_text("no image")
    with pytest.raises(BrokenImagesError, match=r"2 images cannot be decoded .*ü 4.png.*ü 8.png.*--skip-broken"):
        write(source, tmp_path / "cache")
    listed = (tmp_path / "cache" / "broken.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [source.relative_path(4), source.relative_path(8)]
    with pytest.raises(FileNotFoundError, match="not finished"):
        CachedImages(tmp_path / "cache")

    assert write(source, tmp_path / "cache", skip_broken=True) == 7  # continues with the files that were fine
    cache = CachedImages(tmp_path / "cache")
    verify(cache)
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["left_out"] == [
        source.relative_path(4),
        source.relative_path(8),
    ]
    kept = ImageFolder(source.root, exclude=tmp_path / "cache" / "broken.txt")
    assert [image.path for image in cache] == [kept.path(index) for index in range(len(kept))]
    assert [image.label for image in cache] == [kept.label(index) for index in range(len(kept))]
