"""Every quantizer by its class path alone: trained, continued bit for bit, and opened by every command."""

import json
from pathlib import Path

import pytest
from commands import ROOT, run_here

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.training.cli import main

CONFIGS = ROOT / "configs" / "image_tokenizer"
QUANTIZERS = {
    "vector.VectorQuantizer": {},
    "vector.VectorQuantizer with moving averages": {"ema_decay": "0.99", "restart_below": "0.5"},
    "finite_scalar.FiniteScalarQuantizer": {},
    "binary_spherical.BinarySphericalQuantizer": {"num_bits": "10"},
    "index_backprop.IndexBackpropagationQuantizer": {"codebook_size": "300"},
    "gumbel.GumbelQuantizer": {"codebook_size": "64"},
    "residual.ResidualLookupFreeQuantizer": {"num_bits": "6"},
    "residual.GroupedLookupFreeQuantizer": {"num_bits": "12"},
}
QUICK = ("vector.VectorQuantizer with moving averages", "residual.ResidualLookupFreeQuantizer")  # the least like LFQ


def train(folder: Path, name: str, arguments: dict[str, str], steps: int) -> Path:
    """The debug configuration with another quantizer, started or continued; its last checkpoint."""
    quantizer = "--model.init_args.tokenizer.init_args.quantizer"
    words = [
        *("fit", "--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml", "--ckpt_path", "last"),
        *(
            "--trainer.max_steps",
            steps,
            "--trainer.val_check_interval",
            2,
            "--trainer.logger.init_args.save_dir",
            folder,
        ),
        *(quantizer, f"open_magvit2.quantizers.{name.partition(' ')[0]}"),
        *(word for key, value in arguments.items() for word in (f"{quantizer}.{key}", value)),
    ]
    trainer = main([str(word) for word in words]).trainer
    return Path(trainer.log_dir) / "checkpoints" / "last.ckpt"


def weights_and_optimizers(path: Path) -> dict:
    content = checkpoints.read(path)
    return {key: content[key] for key in ("state_dict", "optimizer_states", "global_step")}


@pytest.mark.long
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in QUANTIZERS])
def test_trained_continued_and_opened(name, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    whole = train(tmp_path / "whole", name, QUANTIZERS[name], 4)
    train(tmp_path / "parts", name, QUANTIZERS[name], 2)
    continued = train(tmp_path / "parts", name, QUANTIZERS[name], 4)
    assert checkpoints.differences(weights_and_optimizers(whole), weights_and_optimizers(continued)) == []

    photos = tmp_path / "photos"
    photos.mkdir()
    drawn = SyntheticImages(3, 32, split="validation")
    for number in range(3):
        drawn[number].image.save(photos / f"{number}.png")
    tokenizer = load_tokenizer(whole)
    indices = tokenizer.tokenize(drawn[0].image)
    assert tokenizer.detokenize(indices).shape == (1, 3, 32, 32)
    common = ("--checkpoint", whole, "--images", photos, "--image-size", "32")
    commands = {
        "evaluate": (
            *common,
            "--output",
            tmp_path / "evaluated",
            "--metrics",
            "psnr",
            "--check",
            "off",
            "--device",
            "cpu",
        ),
        "tokenize_images": (*common, "--output", tmp_path / "tokens", "--device", "cpu"),
        "reconstruct": ("--checkpoint", whole, "--output", tmp_path / "pictures", photos, "--device", "cpu"),
    }
    for script, words in commands.items():
        done = run_here(ROOT / "scripts" / f"{script}.py", *words)
        assert done.returncode == 0, f"{script}: {done.stderr}"
    (results,) = (tmp_path / "evaluated").rglob("results.json")
    assert json.loads(results.read_text())["model"]["codebook_size"] == tokenizer.codebook_size
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3
