"""scripts/make_shards.py: unchanged bytes, the same shards after a kill, checksums, broken images."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from commands import ROOT, run_here
from shard_images import make_folder, picture

pytest.importorskip("webdataset", reason="needs the package webdataset")

from open_magvit2.data.sources import shard_building, shard_files
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.sources.shards import Shards

SCRIPT = ROOT / "scripts/make_shards.py"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def make(images: Path, output: Path, *flags: object):
    """Small shards, in two processes."""
    return run_here(SCRIPT, "--images", images, "--output", output, "--images-per-shard", 8, "--workers", 2, *flags)


def test_bytes_labels_and_index(tmp_path):
    images = make_folder(tmp_path / "images", 21)
    assert make(images, tmp_path / "shards").returncode == 0
    found = {}
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
    # sorted folder: the even numbers of class 0, then the odd ones of class 1
    expected = [(number, 0) for number in range(0, 21, 2)] + [(number, 1) for number in range(1, 21, 2)]
    pictures = {f"{index:08}.png": picture(number) for index, (number, _) in enumerate(expected)}
    classes = {f"{index:08}.cls": str(label).encode() for index, (_, label) in enumerate(expected)}
    assert found == pictures | classes
    index = shard_files.read_index(str(tmp_path / "shards/index.json"))
    assert [shard["nsamples"] for shard in index["shardlist"]] == [8, 8, 5]
    source = Shards(str(tmp_path / "shards/{00000..00002}.tar"))
    assert source.counts == [8, 8, 5]
    order = [raw.path for raw in source]
    assert order != sorted(order)  # shuffled as it is written
    assert make(images, tmp_path / "again", "--workers", 1).returncode == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "shards")
    assert make(images, tmp_path / "other", "--seed", 1).returncode == 0
    assert contents(tmp_path / "other") != contents(tmp_path / "shards")


def test_a_killed_run_goes_on(tmp_path):
    images = make_folder(tmp_path / "images", 120)
    make(images, tmp_path / "whole", "--workers", 1, "--images-per-shard", 1)
    command = [sys.executable, SCRIPT, "--images", images, "--output", tmp_path / "shards", "--images-per-shard", "1"]
    process = subprocess.Popen([*map(str, command), "--workers", "1"], env=os.environ, start_new_session=True)
    while process.poll() is None and len(list(tmp_path.glob("shards/building/0*.json"))) < 3:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*.tar")}
    assert 3 <= len(done) < 120
    finished = [p for p in done if (tmp_path / "shards/building" / f"{p.stem}.json").exists()]
    (tmp_path / "shards/.00119.tar.1.partial").write_bytes(b"half")
    assert make(images, tmp_path / "shards", "--images-per-shard", 1).returncode == 0
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == done[path] for path in finished)  # kept, not written again


def test_broken_images(tmp_path):
    images = make_folder(tmp_path / "images", 21, broken=(4, 9))
    refused = make(images, tmp_path / "shards")
    assert refused.returncode == 1
    for word in ("2 images cannot be decoded", "even/004.png", "odd/009.png", "--skip-broken", "broken.txt"):
        assert word in refused.stderr
    assert len(ImageFolder(images, exclude=tmp_path / "shards/broken.txt")) == 19
    assert not (tmp_path / "shards/index.json").exists()
    assert make(images, tmp_path / "shards", "--skip-broken").returncode == 0
    assert len(Shards(str(tmp_path / "shards/{00000..00002}.tar"))) == 19


def test_another_plan_or_another_folder_is_refused(tmp_path):
    images = make_folder(tmp_path / "images", 9)
    make(images, tmp_path / "shards")
    assert make(images, tmp_path / "shards").returncode == 0  # finished: nothing to do
    refused = make(images, tmp_path / "shards", "--seed", 5)
    assert "begun with seed 0, expected 5" in refused.stderr
    assert "expected an empty folder" in make(images, images).stderr
    assert run_here(SCRIPT, "--images", images).returncode == 2


def test_checksums_find_damage(tmp_path):
    make(make_folder(tmp_path / "images", 9), tmp_path / "shards")
    assert run_here(SCRIPT, "--verify", tmp_path / "shards").returncode == 0
    path = tmp_path / "shards/00001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    found = run_here(SCRIPT, "--verify", tmp_path / "shards")
    assert found.returncode == 1
    assert found.stdout.split() == ["damaged:", str(path)]


def test_counting_shards_that_others_made(tmp_path):
    make(make_folder(tmp_path / "images", 19), tmp_path / "shards")
    urls = tmp_path / "shards" / "{00000..00002}.tar"
    assert run_here(SCRIPT, "--count", urls, "--output", tmp_path / "counted.json").returncode == 0
    counted = json.loads((tmp_path / "counted.json").read_text())["shardlist"]
    assert [shard["nsamples"] for shard in counted] == [8, 8, 3]
    assert Shards(str(urls), index=str(tmp_path / "counted.json")).counts == [8, 8, 3]


def test_a_folder_with_other_files_is_refused(tmp_path):
    images = ImageFolder(make_folder(tmp_path / "images", 9))
    (tmp_path / "shards/00000.tar").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds other files \(00000.tar\)"):
        shard_building.build(images, tmp_path / "shards")
