"""To add a quantizer, an encoder or a decoder: one class, chosen by its class path; its checkpoint opens everywhere."""

import json
from pathlib import Path

import pytest
import torch
from as_a_user import PROJECT, User
from commands import ROOT
from PIL import Image

from open_magvit2 import load_tokenizer
from open_magvit2.data.sources.token_shards import TokenShards

CONFIGS = ROOT / "configs" / "image_tokenizer"
ALLOWED = ("--allow-modules", "my_project")
PATHS = ("my_project.patches.PatchEncoder", "my_project.patches.PatchDecoder", "my_project.fsq.FSQ")


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> User:
    return User(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def photos(user) -> Path:
    """Three pictures of 40 x 48."""
    folder = user.folder / "photos"
    folder.mkdir()
    for number in range(3):
        Image.effect_noise((48, 40), 60 + number).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(user) -> Path:
    """Trained by class path on the debug config for two steps, then continued for two."""
    configs = (CONFIGS / "base.yaml", CONFIGS / "debug.yaml", PROJECT / "parts.yaml")
    fit = ("train.py", "fit", *(word for config in configs for word in ("--config", config)), "--ckpt_path", "last")
    user.run(*fit, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
    continued = user.run(*fit, "--trainer.max_steps", "4", "--trainer.val_check_interval", "2")
    assert "continuing from" in continued.stderr
    assert "validation at step 4" in continued.stderr
    return user.folder / "outputs/debug/version_0/checkpoints/last.ckpt"


def commands(checkpoint: Path, photos: Path, folder: Path) -> dict[str, tuple]:
    """Those that open a checkpoint, writing into a folder."""
    common = ("--checkpoint", checkpoint, "--device", "cpu")
    return {
        "evaluate.py": (*common, "--built-in", "4", "--metrics", "psnr,codebook_usage", "--output", folder / "figures"),
        "reconstruct.py": (*common, "--output", folder / "pictures", photos),
        "tokenize_images.py": (*common, "--images", photos, "--image-size", "32", "48", "--output", folder / "tokens"),
    }


@pytest.mark.long
def test_the_checkpoint_opens_in_every_command(user, checkpoint, photos, tmp_path):
    for script, arguments in commands(checkpoint, photos, tmp_path).items():
        user.run(script, *arguments, *ALLOWED)
    results = json.loads((tmp_path / "figures" / "results.json").read_text())
    assert results["model"]["codebook_size"] == 125
    assert 0 < results["metrics"]["codebook_utilization"] <= 1
    assert Image.open(tmp_path / "pictures" / "0.png").width > 2 * 48
    tokens = TokenShards(tmp_path / "tokens")
    assert tokens.read(range(3))[0].shape == (3, 8, 6)  # patches of 4 x 8 pixels
    back = ("--tokens", tmp_path / "tokens", "--output", tmp_path / "decoded")
    user.run("tokenize_images.py", "--checkpoint", checkpoint, "--device", "cpu", *back, *ALLOWED)
    assert Image.open(tmp_path / "decoded" / "2.png.png").size == (48, 32)


@pytest.mark.parametrize("script", ["evaluate.py", "reconstruct.py", "tokenize_images.py"])
def test_without_the_flag_it_is_refused_in_one_line(user, checkpoint, photos, tmp_path, script):
    result = user.run(script, *commands(checkpoint, photos, tmp_path)[script], check=False)
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.splitlines()[-1] == line
    assert "--allow-modules my_project" in line
    assert any(path in line for path in PATHS)


def test_in_python_it_opens_with_its_own_grid(checkpoint, monkeypatch):
    with pytest.raises(ValueError, match=r"allowed_modules"):
        load_tokenizer(checkpoint)
    tokenizer = load_tokenizer(checkpoint, allowed_modules=["my_project"])
    image = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    indices = tokenizer.tokenize(image)
    assert indices.shape == (2, *tokenizer.token_shape((16, 24))) == (2, 4, 3)
    assert tokenizer.detokenize(indices).shape == image.shape
