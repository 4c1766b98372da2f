"""Two sets of shards, mixed by weight, in a training that is really killed and continued."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import ROOT, run
from shard_images import make_shards

CONFIGS = ROOT / "configs" / "image_tokenizer"
STEPS, BATCH = 14, 4


def train(folder: Path, data: Path, *flags: object, code: int = 0) -> None:
    words = [sys.executable, ROOT / "scripts/train.py", "fit", "--config", CONFIGS / "base.yaml"]
    words += ["--config", CONFIGS / "debug.yaml", "--config", data, "--ckpt_path", "last"]
    words += ["--trainer.max_steps", STEPS, "--checkpoint.every_steps", 3]
    words += ["--trainer.callbacks+=faults.Witness", "--trainer.callbacks.file", folder / "seen.txt", *flags]
    path = f"{ROOT / 'src'}:{ROOT / 'tests'}"
    assert run(*words, folder=folder, check=False, PYTHONPATH=path).returncode == code


def seen(folder: Path) -> dict[int, str]:
    """The paths of each step's batch; of steps that were made again after a kill, those of the last time."""
    return dict(line.split("\t") for line in (folder / "seen.txt").read_text().splitlines())


@pytest.mark.long
def test_a_killed_mixture_sees_each_sample_as_often_as_an_undisturbed_one(tmp_path):
    sources = [
        {"class_path": "open_magvit2.data.sources.shards.Shards", "init_args": {"urls": urls, "shuffle_window": 4}}
        for urls in (make_shards(tmp_path / "a", [7, 6, 8]), make_shards(tmp_path / "b", [5, 4], first=100))
    ]
    mixture = {
        "class_path": "open_magvit2.data.sources.mixture.Mixture",
        "init_args": {"sources": sources, "weights": [3, 1]},
    }
    options = {"train": mixture, "validation": None, "global_batch_size": BATCH, "num_workers": 2}
    (tmp_path / "data.yaml").write_text(json.dumps({"data": {"init_args": options}}))
    kill = ("--trainer.callbacks+=faults.Fault", "--trainer.callbacks.rank", 0, "--trainer.callbacks.kind", "kill")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        if name == "killed":
            for step in (5, 10):
                train(tmp_path / name, tmp_path / "data.yaml", *kill, "--trainer.callbacks.at_step", step, code=-9)
        train(tmp_path / name, tmp_path / "data.yaml")
    whole, killed = seen(tmp_path / "whole"), seen(tmp_path / "killed")
    assert len((tmp_path / "killed" / "seen.txt").read_text().splitlines()) > STEPS  # some steps were made twice
    assert killed == whole
    assert len(whole) == STEPS
    samples = Counter(path for batch in whole.values() for path in batch.split(" "))
    assert samples.total() == STEPS * BATCH
    from_first = sum(number for path, number in samples.items() if "/a/" in path)
    assert 30 <= from_first <= 54  # three of four in the mean
    assert {"/a/", "/b/"} == {part for path in samples for part in ("/a/", "/b/") if part in path}
