"""--download: missing files are listed with size and licence, then fetched into the cache, and only on request."""

import json

import pytest
import yaml
from commands import ROOT, run_here
from small_checkpoint import save_small_checkpoint

from open_magvit2.evaluation import downloads, table_rows

CONFIGS = ROOT / "configs" / "evaluation"

COMMON = {"tokens": "8x8", "train_data": "-", "codebook_size": 64, "image_size": 32, "protocol": "paper"}
ROWS = [
    {**COMMON, "method": "On the Hub", "checkpoint": "ours.ckpt", "file": "imagenet_256_B", "family": "open_magvit2"},
    {**COMMON, "method": "Gone", "checkpoint": "gone.pt", "file": "vq_ds16_c2i", "family": "llamagen"},
    {**COMMON, "method": "Elsewhere", "checkpoint": "vq-f8.ckpt", "file": "vq-f8", "family": "vqgan"},
]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": ROWS}))
    return tmp_path


def test_the_table_is_fetched_by_command_line_and_only_on_request(place, hub):
    content = save_small_checkpoint(place / "made.ckpt").read_bytes()
    hub.commit("TencentARC/Open-MAGVIT2", {"imagenet_256_B.ckpt": content})
    command = [ROOT / "scripts" / "evaluate.py", "--table", place / "table.yaml", "--device", "cpu", "--built-in", "5"]
    command += ["--metrics", "psnr", "--checkpoints", place / "none", "--output", place / "out"]
    assert "0 of 3 rows measured" in run_here(*command).stdout
    assert hub.requests == []
    done = run_here(*command, "--download")
    assert done.returncode == 0, done.stderr
    listed = done.stdout.index("ours.ckpt: TencentARC/Open-MAGVIT2/imagenet_256_B.ckpt")
    assert f"{len(content) / 1e6:,.1f} MB; licence apache-2.0" in done.stdout
    assert listed < done.stdout.index("gone.pt was not fetched")
    assert "vq-f8.ckpt: not on the Hub, in the model zoo of latent-diffusion" in done.stdout
    rows = json.loads((place / "out" / "table.json").read_text())["rows"]
    assert [row["state"] for row in rows] == ["evaluated", "published", "published"]


def test_a_file_that_is_here_is_not_wanted(place):
    (place / "ours.ckpt").write_bytes(b"here")
    (place / "gone.pt").write_bytes(b"here")
    rows = table_rows.load(place / "table.yaml", CONFIGS)[1]
    (wanted,) = downloads.wanted(rows, place)
    assert (wanted.name, wanted.size, wanted.place.licence) == ("vq-f8.ckpt", None, "mit")
    (place / "vq-f8.ckpt").write_bytes(b"here")
    told = []
    assert downloads.fetch(rows, place, told.append) == {}
    assert told == ["no file is missing"]
