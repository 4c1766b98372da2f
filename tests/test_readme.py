"""The README keeps its word: links lead somewhere, commands name what exists, its Python runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import open_magvit2
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.published import published_name
from open_magvit2.training.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str = TEXT) -> list[str]:
    lines = "\n".join(blocks("bash", text)).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_links_and_pictures_exist():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in target]
    assert len(targets) > 8
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


@pytest.mark.parametrize("command", commands() + commands((ROOT / "docs/generation.md").read_text()))
def test_commands_name_files_that_exist(command):
    for word in shlex.split(command):
        if word.endswith((".py", ".sh", ".yaml", "requirements.txt")):
            assert (ROOT / word).is_file(), word


# Launching with MASTER_ADDR MASTER_PORT NODE_RANK is tested in test_launch.py, --ckpt_path in test_scripts.py.
FLAGS = [c for c in commands() if re.search(r"(run_B_\d+|train\.py).* --(?!ckpt)", c) and "srun" not in c]


@pytest.mark.parametrize("command", FLAGS)
def test_training_flags_are_accepted(command, monkeypatch, capsys):
    """The flags after a training script build a training; hardware and data of this machine stand in for the user's."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    words = shlex.split(command)
    start = next(i for i, word in enumerate(words) if word.endswith((".sh", ".py"))) + 1
    flags = [word for word in words[start:] if word != "fit"]
    config = ROOT / "configs/image_tokenizer"
    here = ["--config", str(config / "debug.yaml"), "--trainer.precision", "32-true"]
    monkeypatch.chdir(ROOT)
    assert main(["--config", str(config / "base.yaml"), *flags, *here], run=False).model is not None


def test_python_example_runs(tmp_path, monkeypatch):
    torch.manual_seed(0)
    tokenizer = ImageTokenizer.convolutional(channels=32, channel_multipliers=(1, 1, 1, 1, 1), num_residual_blocks=1)
    raw = {published_name(name): value for name, value in tokenizer.state_dict().items()}
    averaged = {"model_ema." + name.replace(".", ""): value for name, value in raw.items()}
    torch.save({"state_dict": {**raw, **averaged}}, tmp_path / "imagenet_256_B.ckpt")
    monkeypatch.chdir(tmp_path)
    names = {"pixels": torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)}
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), names)
    assert names["indices"].shape == (2, 16, 16)
    assert names["pixels_again"].shape == names["pixels"].shape
    assert names["pixels_again"].dtype == torch.uint8


def test_version_is_stated_once():
    assert f'version = "{open_magvit2.__version__}"' in (ROOT / "pyproject.toml").read_text()
