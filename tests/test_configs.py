"""Every configuration builds what it says; mistakes in one are refused by name."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml

from open_magvit2.training.cli import main

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "image_tokenizer"
BASE = ["--config", str(CONFIGS / "base.yaml")]
# what a machine without GPUs, ImageNet and VGG weights needs to build the trainings
HERE = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"]
NO_LPIPS = ["--model.init_args.generator_objective.init_args.perceptual_weight", "0", "--model.init_args.metrics", "[]"]


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch):
    """The command line under test is the one given, not pytest's."""
    monkeypatch.setattr("sys.argv", ["train.py"])


def image_folders(root: Path) -> list[str]:
    """Flags that point a training at a tiny ImageNet made here."""
    from PIL import Image

    flags = []
    for name, split in (("train", "train"), ("validation", "val")):
        folder = root / split / "n01440764"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), (200, 30, 90)).save(folder / "image.JPEG")
        flags += [f"--data.init_args.{name}.init_args.root", str(root / split)]
    return flags


def build(*arguments: str):
    """Everything a command line would build, without running it."""
    return main([*BASE, *arguments], run=False)


@pytest.mark.parametrize(
    ("name", "generator", "size", "tokens", "max_steps"),
    [("imagenet_B_128", 63_571_093, 128, 8, 750_000), ("imagenet_B_256", 65_490_709, 256, 16, 1_350_000)],
)
def test_imagenet_configs_build_the_published_models(tmp_path, name, generator, size, tokens, max_steps):
    cli = build("--config", str(CONFIGS / f"{name}.yaml"), *HERE, *NO_LPIPS, *image_folders(tmp_path))
    model, data = cli.model, cli.datamodule
    assert sum(p.numel() for p in model.tokenizer.parameters()) == generator
    assert sum(p.numel() for p in model.discriminator.parameters()) == 2_765_633
    assert model.tokenizer.downsampling == tokens
    assert model.tokenizer.codebook_size == 2**18
    assert (data.image_size, data.global_batch_size, model.micro_batch_size) == (size, 256, 8)
    assert cli.trainer.max_steps == max_steps
    assert (model.learning_rate, model.betas) == (1e-4, (0.5, 0.9))
    objective = model.generator_objective
    assert (objective.reconstruction_weight, objective.adversarial_weight) == (1.0, 0.1)
    assert objective.quantizer_weights == {"sample_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25}
    assert model.discriminator_objective.lecam_weight == 0.005


@pytest.mark.parametrize("name", ["demo", "debug"])
def test_small_configs_build(name):
    cli = build("--config", str(CONFIGS / f"{name}.yaml"))
    output = cli.model.tokenizer(torch.zeros(1, 3, cli.datamodule.image_size, cli.datamodule.image_size))
    assert output.reconstruction.shape[-1] == cli.datamodule.image_size


def test_base_config_names_every_argument():
    """base.yaml is where a user finds all settings: it may not fall behind the constructors."""
    import importlib
    import inspect

    def check(node, path):
        if not isinstance(node, dict):
            return
        if "class_path" in node:
            module, _, name = node["class_path"].rpartition(".")
            arguments = set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
            if module.startswith("open_magvit2.") and not module.startswith("open_magvit2.data.sources.image_folder"):
                assert arguments == set(node.get("init_args", {})), f"{path}: {node['class_path']}"
        for key, value in node.items():
            check(value, f"{path}.{key}")

    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())
    check(base, "base")
    assert {"model", "data", "trainer", "averaging", "checkpoint"} <= set(base)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_starts_with_how_to_run_it(path):
    head = path.read_text().split("\n\n")[0] if path.name == "base.yaml" else path.read_text().split("\nmodel:")[0]
    words = ["scripts/train.py fit"] if path.name == "base.yaml" else ["Command", "Hardware", "Expected"]
    assert all(word in head for word in words)
    assert not {"TIME", "EXPECTED", "TODO"} & set(head.split())  # stand-ins for a figure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.init_args.lerning_rate", "1"], "lerning_rate"),
        (["--model.init_args.tokenizer.init_args.chanels", "8"], "chanels"),
        (["--model.init_args.tokenizer.init_args.channels", "wide"], "channels"),
        (["--model.init_args.tokenizer.init_args.channels", "12"], "8 normalization groups do not divide 12"),
        (["--model.init_args.tokenizer.init_args.quantizer.init_args.num_bits", "40"], "num_bits must be 1 to 36"),
        (["--trainer.max_stepz", "3"], "max_stepz"),
    ],
)
def test_mistakes_are_refused_by_name(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        build("--config", str(CONFIGS / "debug.yaml"), *arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_a_flag_changes_one_value_and_keeps_the_rest():
    cli = build(
        "--config", str(CONFIGS / "debug.yaml"), "--averaging.decay", "0.5", "--model.init_args.betas", "[0, 0.9]"
    )
    assert cli.model.betas == (0.0, 0.9)
    assert cli.model.tokenizer.codebook_size == 256
    averaging = next(c for c in cli.trainer.callbacks if type(c).__name__ == "ExponentialMovingAverage")
    assert averaging.decay == 0.5
    assert isinstance(cli.trainer, pl.Trainer)


def test_fast_decoding_and_a_cache_are_selected_by_flags(tmp_path):
    from open_magvit2.data.sources.cache_building import build as build_cache
    from open_magvit2.data.sources.cache_building import make_plan
    from open_magvit2.data.sources.cached import CachedImages
    from open_magvit2.data.sources.image_folder import ImageFolder

    image_folders(tmp_path)
    source = ImageFolder(tmp_path / "train")
    build_cache(source, tmp_path / "cache", make_plan(source, 32, 8, num_workers=0), num_workers=0)
    cached = ["--data.init_args.train", "open_magvit2.data.sources.cached.CachedImages"]
    cached += ["--data.init_args.train.init_args.root", str(tmp_path / "cache")]
    flags = ["--data.init_args.decoding", "fast", "--data.init_args.image_size", "32", *cached]
    data = build("--config", str(CONFIGS / "debug.yaml"), *flags).datamodule
    assert isinstance(data.train, CachedImages)
    assert (len(data.train), data.decoding) == (1, "fast")
