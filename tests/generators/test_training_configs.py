"""Every configuration of a generator builds what it says, and the debug one runs from the command line."""

import re
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, run
from PIL import Image
from small_checkpoint import save_small_checkpoint
from small_generator_training import write_shards

from open_magvit2.data.sources.synthetic.scenes import SCENES
from open_magvit2.generators.bitwise import BitwiseGenerator
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.generators.pretrained import load_generator
from open_magvit2.training.cli import main
from open_magvit2.training.sharding import FullySharded

CONFIGS = ROOT / "configs" / "generators"
HERE = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"]
NO_TOKENIZER = ["--model.init_args.tokenizer", "null"]


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch):
    """The command line under test is the one given, not pytest's."""
    monkeypatch.setattr("sys.argv", ["train.py"])


def image_folders(root: Path) -> list[str]:
    flags = []
    for name, split in (("train", "train"), ("validation", "val")):
        (folder := root / split / "n01440764").mkdir(parents=True)
        Image.new("RGB", (40, 30), (200, 30, 90)).save(folder / "image.JPEG")
        flags += [f"--data.init_args.{name}.init_args.root", str(root / split)]
    return flags


def build(name: str, *flags: str):
    """Everything a command line would build."""
    files = ["--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / f"{name}.yaml")]
    return main([*files, *flags], run=False)


def build_without_memory(name: str, *flags: str):
    """The same, with weights that have a shape and no values."""
    with torch.device("meta"):
        return build(name, *flags)


@pytest.mark.parametrize(
    ("name", "number", "micro", "peak", "steps", "warmup"),
    [
        ("AR_B", 343_570_432, 24, 3e-4, 500_400, 10_008),
        ("AR_L", 804_362_240, 12, 3e-4, 500_400, 10_008),
        ("AR_XL", 1_486_679_040, 8, 2.4e-4, 583_800, 11_676),
    ],
)
def test_the_autoregressive_configs_are_the_published_recipes(tmp_path, name, number, micro, peak, steps, warmup):
    cli = build_without_memory(name, *HERE, *NO_TOKENIZER, *image_folders(tmp_path))
    model, data = cli.model, cli.datamodule
    assert sum(p.numel() for p in model.generator.parameters()) == number
    assert (data.global_batch_size, data.image_size, model.micro_batch_size) == (768, 256, micro)
    assert (model.learning_rate, model.betas, model.weight_decay) == (peak, (0.9, 0.95), 0.05)
    assert (model.gradient_clip_norm, model.class_dropout, model.label_smoothing) == (1.0, 0.1, 0.0)
    assert cli.trainer.max_steps == steps
    assert (model.schedule.total_steps, model.schedule.warmup_steps) == (steps, warmup)
    epochs = steps // (1_281_167 // 768)
    assert (epochs, warmup // (1_281_167 // 768)) == ((350, 7) if name == "AR_XL" else (300, 6))
    assert isinstance(cli.trainer.strategy, FullySharded) == (name == "AR_XL")
    names = {type(callback).__name__ for callback in cli.trainer.callbacks}
    assert {"TrainingHealth", "TrainingCheckpoint", "ExactResumption", "TrainingProgress"} <= names
    assert "ExponentialMovingAverage" not in names


def test_the_masked_config_is_maskbit_s_recipe(tmp_path):
    cli = build_without_memory("masked", *HERE, *NO_TOKENIZER, *image_folders(tmp_path))
    model = cli.model
    assert isinstance(model.generator, MaskedGenerator)
    assert 300e6 < sum(p.numel() for p in model.generator.parameters()) < 320e6
    assert (model.generator.bits, model.mask_schedule, model.unmasked_weight) == ((9, 9), "arccos", 1.0)
    assert (model.learning_rate, model.betas, model.weight_decay) == (1e-4, (0.9, 0.96), 0.045)
    assert [round(model.schedule(step), 3) for step in (5000, cli.trainer.max_steps)] == [1.0, 0.1]
    assert (model.label_smoothing, model.sampling.num_steps, model.sampling.guidance) == (0.1, 64, 5.7)
    assert cli.datamodule.global_batch_size == 1024
    assert cli.datamodule.train_transform.flip


def test_the_random_order_and_the_bitwise_config_build(tmp_path):
    folders = image_folders(tmp_path)
    model = build_without_memory("RAR_B", *HERE, *NO_TOKENIZER, *folders).model
    assert [model.random_share(step) for step in (0, 250_200, 375_300)] == [1.0, 1.0, 0.0]
    assert sum(p.numel() for p in model.generator.parameters()) == pytest.approx(343.8e6, abs=5e4)
    model = build_without_memory("bitwise", *HERE, *NO_TOKENIZER, *folders).model
    assert (model.generator.codebook_size, model.sampling.num_steps) == (2**18, 4)
    # no table over the codes, and none of sub-tokens: the largest is that of the classes
    assert max(p.shape[0] for p in model.generator.parameters()) < 4096 + 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_starts_with_how_to_run_it(path):
    head = path.read_text().split("\nmodel:")[0]
    words = ["scripts/train.py fit"] if path.name == "base.yaml" else ["Command", "Hardware", "Expected"]
    assert all(word in head for word in words)
    assert not {"TIME", "EXPECTED", "TODO"} & set(head.split())  # stand-ins for a figure


def tokenizer_of(name: str):
    room = ROOT / "configs" / "image_tokenizer"
    words = ["--config", str(room / "base.yaml"), "--config", str(room / f"{name}.yaml")]
    return main(words, run=False).model.tokenizer


@pytest.mark.parametrize("name", ["debug", "masked_debug", "bitwise_debug"])
def test_small_configs_fit_their_tokenizers(tmp_path, name):
    checkpoint = save_small_checkpoint(tmp_path / "tokenizer.ckpt")
    cli = build(name, "--model.init_args.tokenizer.init_args.path", str(checkpoint))
    tokenizer, size = tokenizer_of("debug"), (cli.datamodule.image_size,) * 2
    assert tokenizer.codebook_size == cli.model.generator.factorization.codebook_size
    assert tokenizer.token_shape(size) == cli.model.generator.grid


def test_the_demo_config_fits_its_tokenizer_and_the_images_that_the_demo_tokenizes(tmp_path):
    script = (ROOT / "scripts/demo.sh").read_text()
    kinds = re.search(r"kinds=\((.*)\)", script)[1].split()
    (size,) = re.findall(r"size=(\d+) split", script)
    assert set(kinds) < {scene.__name__ for scene in SCENES}
    shards = {"token_shape": (12, 12), "codebook_size": 1024, "image_size": (24, 24)}
    for split in ("train", "validation"):
        write_shards(tmp_path / split, 16, classes=len(kinds), **shards)
    flags = [word for split in ("train", "validation") for word in (f"--data.init_args.{split}", str(tmp_path / split))]
    checkpoint = save_small_checkpoint(tmp_path / "tokenizer.ckpt")
    cli = build("demo", "--model.init_args.tokenizer.init_args.path", str(checkpoint), *flags)
    tokenizer, generator = tokenizer_of("demo"), cli.model.generator
    assert tokenizer.codebook_size == generator.factorization.codebook_size
    assert tokenizer.token_shape((int(size), int(size))) == generator.grid
    assert (generator.num_classes, cli.model.pictured_classes) == (len(kinds), list(range(len(kinds))))


def train(folder: Path, checkpoint: Path, *flags: object, name: str = "debug"):
    """scripts/train.py with a debug configuration, for a tokenizer of 64 codes that downsamples 4x."""
    words = [sys.executable, ROOT / "scripts/train.py", "fit", "--config", CONFIGS / "base.yaml"]
    words += ["--config", CONFIGS / f"{name}.yaml", "--model.init_args.tokenizer.init_args.path", checkpoint]
    bits = ("num_bits", "6") if name == "bitwise_debug" else ("bits", "[2,4]")
    words += [f"--model.init_args.generator.init_args.{bits[0]}", bits[1]]
    return run(*words, *flags, folder=folder, check=False)


@pytest.mark.long
def test_the_debug_config_trains_on_images_from_the_command_line_and_continues(tmp_path):
    checkpoint = save_small_checkpoint(tmp_path / "tokenizer.ckpt")
    result = train(tmp_path, checkpoint)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "validation at step 8: loss_0" in result.stderr
    assert "bits_per_dimension" in result.stderr
    assert "have overridden" not in result.stderr
    path = tmp_path / "outputs/debug_generator/version_0/checkpoints/last.ckpt"
    assert load_generator(path, "ema").bits == (2, 4)
    again = train(tmp_path, checkpoint, "--ckpt_path", "last", "--trainer.max_steps", "9")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "continuing from" in again.stderr


@pytest.mark.parametrize(
    ("name", "kind", "bits"),
    [("masked_debug", MaskedGenerator, (2, 4)), ("bitwise_debug", BitwiseGenerator, (1,) * 6)],
)
def test_the_debug_configs_of_other_generators_train_from_the_command_line(tmp_path, name, kind, bits):
    result = train(tmp_path, save_small_checkpoint(tmp_path / "tokenizer.ckpt"), name=name)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "validation at step 8: loss_0" in result.stderr
    assert "have overridden" not in result.stderr
    path = tmp_path / f"outputs/{name}/version_0/checkpoints/last.ckpt"
    generator = load_generator(path, "ema")
    assert isinstance(generator, kind)
    assert generator.bits == bits


def test_the_debug_config_trains_on_tokens_from_the_command_line(tmp_path):
    shards = {"token_shape": (8, 8), "image_size": (32, 32)}
    for name in ("train", "validation"):
        write_shards(tmp_path / name, 16, classes=10, **shards)
    flags = ["--data", "open_magvit2.data.token_loading.TokenDataModule", "--data.init_args.train", tmp_path / "train"]
    flags += ["--data.init_args.validation", tmp_path / "validation", "--data.init_args.global_batch_size", "8"]
    flags += ["--model.init_args.tokenizer", "null", "--data.init_args.num_workers", "0"]
    result = train(tmp_path, save_small_checkpoint(tmp_path / "tokenizer.ckpt"), *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "validation at step 8: loss_0" in result.stderr
    alone = train(tmp_path, tmp_path / "tokenizer.ckpt", *flags, "--data.init_args.validation", "null")
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert "validation at step" not in alone.stderr


def test_a_figure_that_validation_does_not_log_is_refused_before_the_first_step(tmp_path):
    checkpoint = save_small_checkpoint(tmp_path / "tokenizer.ckpt")
    result = train(tmp_path, checkpoint, "--checkpoint.monitor", "validation/fid")
    assert result.returncode == 2
    assert "checkpoint.monitor is 'validation/fid', which validation does not log" in result.stderr
    assert "validation at step" not in result.stderr


def test_a_tokenizer_that_does_not_fit_ends_the_command_with_one_message(tmp_path):
    checkpoint = save_small_checkpoint(tmp_path / "tokenizer.ckpt")
    result = train(tmp_path, checkpoint, "--model.init_args.generator.init_args.bits", "[3,5]")
    assert result.returncode == 2
    assert "has a codebook of 64 codes, the generator one of 256" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["AR_B", "AR_L", "AR_XL", "masked"])
def test_run_scripts_start_the_training_of_their_configuration(tmp_path, name):
    """With an interpreter that claims 8 GPUs, and prints its command instead of running it."""
    (tmp_path / "python").write_text(
        '#!/bin/sh\ncase "$*" in *device_count*) echo 8;; *scripts/train.py*) echo "runs: $*";; esac\n'
    )
    (tmp_path / "python").chmod(0o755)
    image_folders(tmp_path)
    (tmp_path / "tokenizer.ckpt").touch()
    variables = {"IMAGENET_ROOT": str(tmp_path), "PYTHON": str(tmp_path / "python")}
    refused = run("bash", ROOT / f"run_{name}.sh", check=False, **variables, TOKENIZER=str(tmp_path / "nowhere.ckpt"))
    assert refused.returncode == 2
    assert f"no tokenizer at {tmp_path}/nowhere.ckpt: set TOKENIZER" in refused.stderr
    started = run("bash", ROOT / f"run_{name}.sh", **variables, TOKENIZER=str(tmp_path / "tokenizer.ckpt"))
    assert f"configs/generators/{name}.yaml" in started.stdout
    assert f"--model.init_args.tokenizer.init_args.path {tmp_path}/tokenizer.ckpt" in started.stdout
    assert "--processes 8" in started.stdout
