"""To add a metric, or a tokenizer to compare: one file in the folder of its kind, chosen by its name."""

import json
import shutil

import pytest
import torch
import yaml
from as_a_user import PROJECT, User
from commands import ROOT
from my_project import mean_color

from open_magvit2.common.images import to_float
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.data.transforms import ResizeCenterCrop

NUMBER, SIZE = 5, 32
VALIDATION = "open_magvit2.evaluation.validation.ValidationMetrics"
IMAGES = ("--built-in", NUMBER, "--image-size", SIZE, "--metrics", "psnr,bias", "--device", "cpu")


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> User:
    """Whose copy of the package has one metric and one family of tokenizers more, and who has a file of that family."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name, kind in (("bias", "metrics"), ("mean_color", "tokenizers")):
        shutil.copy(PROJECT / f"{name}.py", folder / "src/open_magvit2/evaluation" / kind)
    torch.save({"levels": 4}, folder / "mean_color.pt")
    return User(folder, folder / "src")


@pytest.fixture(scope="module")
def bias() -> float:
    """What the metric must say, from its definition."""
    images, crop = SyntheticImages(NUMBER, SIZE, split="validation"), ResizeCenterCrop(SIZE)
    originals = torch.stack([to_float(crop(images[index].image, None)) for index in range(NUMBER)])
    reconstructions, _ = mean_color.MeanColor(levels=4).reconstruct(originals)
    return (reconstructions.double() - originals.double()).mean().item()


def test_a_metric_and_a_tokenizer_by_their_names(user, bias):
    command = ("evaluate.py", "--checkpoint", "mean_color.pt", "--tokenizer", "mean_color", "--output", "figures")
    user.run(*command, *IMAGES)
    results = json.loads((user.folder / "figures/results.json").read_text())
    assert results["metrics"]["bias"] == pytest.approx(bias, abs=1e-9)
    assert results["model"]["codebook_size"] == 64
    assert results["model"]["weights_used"] == "raw"  # this family has no others


def test_a_tokenizer_without_ema_weights_in_a_table(user, bias):
    row = {"method": "Mean colour", "tokens": "8x8", "train_data": "-", "codebook_size": 64, "image_size": SIZE}
    row |= {"checkpoint": "mean_color.pt", "family": "my_project.mean_color", "protocol": "paper"}
    (user.folder / "table.yaml").write_text(yaml.safe_dump({"rows": [row]}))
    user.run("evaluate.py", "--table", "table.yaml", "--checkpoints", user.folder, "--output", "table", *IMAGES)
    (found,) = json.loads((user.folder / "table/table.json").read_text())["rows"]
    assert found["error"] is None
    assert found["measured"]["weights_used"] == "raw"
    results = json.loads((user.folder / "table" / found["results"]).read_text())
    assert results["metrics"]["bias"] == pytest.approx(bias, abs=1e-9)


def test_a_metric_by_its_name_in_the_config_of_a_training(user):
    configs = (ROOT / "configs/image_tokenizer" / name for name in ("base.yaml", "debug.yaml"))
    words = [word for config in configs for word in ("--config", config)]
    steps = ("--trainer.max_steps", "1", "--trainer.val_check_interval", "1")
    metrics = f"[{{class_path: {VALIDATION}, init_args: {{names: [psnr, bias]}}}}]"
    result = user.run("train.py", "fit", *words, *steps, "--model.init_args.metrics", metrics)
    assert "bias" in result.stderr[result.stderr.index("validation at step 1") :]
