"""--download: missing files are listed with size and licence, then fetched into the cache, and only on request."""

import json
import sys

import pytest
import yaml
from commands import ROOT, run
from small_checkpoint import save_small_checkpoint

from open_magvit2.evaluation import downloads, table_rows

CONFIGS = ROOT / "configs" / "evaluation"
sys.path.insert(0, str(ROOT / "tests" / "image_tokenizer"))
from hub_server import serving  # noqa: E402

COMMON = {"tokens": "8x8", "train_data": "-", "codebook_size": 64, "image_size": 32, "protocol": "paper"}
ROWS = [
    {**COMMON, "method": "On the Hub", "checkpoint": "ours.ckpt", "file": "imagenet_256_B", "family": "open_magvit2"},
    {**COMMON, "method": "Gone", "checkpoint": "gone.pt", "file": "vq_ds16_c2i", "family": "llamagen"},
    {**COMMON, "method": "Elsewhere", "checkpoint": "vq-f8.zip", "file": "vq-f8", "family": "vqgan"},
]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": ROWS}))
    return tmp_path


def test_the_table_is_fetched_by_command_line_and_only_on_request(place):
    content = save_small_checkpoint(place / "made.ckpt").read_bytes()
    command = [
        sys.executable,
        ROOT / "scripts" / "evaluate.py",
        "--table",
        place / "table.yaml",
        "--device",
        "cpu",
        "--built-in",
        "5",
    ]
    command += ["--metrics", "psnr", "--checkpoints", place / "none", "--output", place / "out"]
    with serving() as hub:
        hub.repositories["TencentARC/Open-MAGVIT2"] = {"imagenet_256_B.ckpt": content}
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(place / "cache"), "HF_HUB_DISABLE_XET": "1"}
        without = run(*command, **environment)
        assert "0 of 3 rows measured" in without.stdout
        assert hub.requests == []
        done = run(*command, "--download", **environment)
    assert done.returncode == 0, done.stderr
    listed = done.stdout.index("ours.ckpt: TencentARC/Open-MAGVIT2/imagenet_256_B.ckpt")
    assert f"{len(content) / 1e6:,.1f} MB; licence Apache-2.0" in done.stdout
    assert listed < done.stdout.index("gone.pt was not fetched")
    assert "vq-f8.zip: not on the Hub, fetch it from https://github.com/CompVis/latent" in done.stdout
    rows = json.loads((place / "out" / "table.json").read_text())["rows"]
    assert [row["state"] for row in rows] == ["evaluated", "published", "published"]


def test_a_file_that_is_here_is_not_wanted(place):
    (place / "ours.ckpt").write_bytes(b"here")
    (place / "gone.pt").write_bytes(b"here")
    rows = table_rows.load(place / "table.yaml", CONFIGS)[1]
    (wanted,) = downloads.wanted(rows, place)
    assert (wanted.name, wanted.size, wanted.place.licence) == ("vq-f8.zip", None, "MIT")
    (place / "vq-f8.zip").write_bytes(b"here")
    told = []
    assert downloads.fetch(rows, place, told.append) == {}
    assert told == ["no file is missing"]
