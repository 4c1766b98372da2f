"""Every configuration builds what it says; mistakes in one are refused by name."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from data.shard_images import make_shards

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


def callbacks(cli) -> dict[str, pl.Callback]:
    """Those of the trainer, by the names of their classes."""
    return {type(callback).__name__: callback for callback in cli.trainer.callbacks}


@pytest.mark.parametrize(
    ("name", "generator", "size", "tokens", "max_steps", "lecam", "last_rate"),
    [
        ("imagenet_B_128", 63_571_093, 128, 8, 750_000, 0.005, 1.0),
        ("imagenet_B_256", 65_490_709, 256, 16, 1_350_000, 0.005, 1.0),
        ("imagenet_L_128", 112_021_653, 128, 8, 1_750_000, 0.01, 0.01),
        ("imagenet_L_256", 115_127_829, 256, 16, 1_350_000, 0.05, 0.01),
    ],
)
def test_imagenet_configs_build_the_published_models(
    tmp_path, name, generator, size, tokens, max_steps, lecam, last_rate
):
    cli = build("--config", str(CONFIGS / f"{name}.yaml"), *HERE, *NO_LPIPS, *image_folders(tmp_path))
    model, data = cli.model, cli.datamodule
    assert sum(p.numel() for p in model.tokenizer.parameters()) == generator
    assert sum(p.numel() for p in model.adversary.discriminator.parameters()) == 2_765_633
    assert model.tokenizer.size_rule.multiple == (tokens, tokens)
    assert model.tokenizer.codebook_size == 2**18
    assert (data.image_size, data.global_batch_size, model.micro_batch_size) == (size, 256, 8)
    assert cli.trainer.max_steps == max_steps
    assert (model.learning_rate, model.betas) == (1e-4, (0.5, 0.9))
    objective = model.generator_objective
    assert (objective.reconstruction_weight, objective.perceptual_weight, model.adversary.weight) == (1.0, 0.0, 0.1)
    assert objective.quantizer_weights == {"sample_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25}
    assert (model.adversary.lecam_weight, model.adversary.lecam.decay) == (lecam, 0.999)
    assert (model.adversary.generator_loss, model.adversary.discriminator_loss) == ("non_saturating", "hinge")
    assert (model.tokenizer.quantizer.temperature, model.tokenizer.quantizer.entropy_eps) == (0.01, 1e-5)
    assert [model.schedule(step) for step in (0, max_steps - 1)] == pytest.approx([1.0, last_rate])
    assert callbacks(cli)["ExponentialMovingAverage"].decay == 0.999
    sections = ("ExponentialMovingAverage", "TrainingHealth", "TrainingCheckpoint", "ExactResumption")
    assert set(callbacks(cli)) >= {*sections, "TrainingProgress", "ImageGrid", "SkippedImages"}


@pytest.mark.parametrize(
    ("name", "bits", "generator", "discriminator", "steps_and_rates"),
    [
        ("pretrain_262144", 18, 115_127_829, 2_765_633, {0: 1, 799_999: 1, 800_000: 0.1, 1_000_000: 0.01}),
        ("pretrain_16384", 14, 115_094_033, 1_909_889, {0: 1, 750_000: 0.5, 1_500_000: 0}),
    ],
)
def test_pretrain_configs_build_the_published_models_on_shards(
    tmp_path, name, bits, generator, discriminator, steps_and_rates
):
    pytest.importorskip("webdataset", reason="the extra `data` is not installed")
    urls = make_shards(tmp_path / "shards", [3, 2])
    flags = ["--data.init_args.train.init_args.urls", urls, *image_folders(tmp_path)[2:]]
    cli = build("--config", str(CONFIGS / f"{name}.yaml"), *HERE, *NO_LPIPS, *flags)
    model, data = cli.model, cli.datamodule
    assert sum(p.numel() for p in model.tokenizer.parameters()) == generator
    assert sum(p.numel() for p in model.adversary.discriminator.parameters()) == discriminator
    assert model.tokenizer.codebook_size == 2**bits
    assert (data.image_size, data.global_batch_size, len(data.train)) == (256, 256, 5)
    assert (cli.trainer.max_steps, model.adversary.weight, model.adversary.lecam_weight) == (1_500_000, 0.1, 0.05)
    rates = {step: model.schedule(step) for step in steps_and_rates}
    assert rates == pytest.approx(steps_and_rates, abs=1e-6)


@pytest.mark.parametrize("quantizer", [None, "open_magvit2.quantizers.finite_scalar.FiniteScalarQuantizer"])
def test_the_transformer_config_builds_with_any_quantizer(tmp_path, quantizer):
    parts = "--model.init_args.tokenizer.init_args"
    small = {"width": 32, "num_heads": 2, "num_blocks": 1}
    flags = [word for name, value in small.items() for word in (f"{parts}.encoder.init_args.{name}", str(value))]
    flags += [f"{parts}.quantizer", quantizer] if quantizer else []
    cli = build("--config", str(CONFIGS / "vit_256.yaml"), *HERE, *NO_LPIPS, *image_folders(tmp_path), *flags)
    tokenizer = cli.model.tokenizer
    assert tokenizer.decoder.latent_channels == (6 if quantizer else 18)
    assert tokenizer(torch.zeros(1, 3, 256, 256)).indices.shape == (1, 16, 16)
    assert set(cli.model.generator_objective.quantizer_weights) == set(tokenizer.quantizer.loss_weights)


@pytest.mark.parametrize("name", ["demo", "debug"])
def test_small_configs_build(name):
    cli = build("--config", str(CONFIGS / f"{name}.yaml"))
    output = cli.model.tokenizer(torch.zeros(1, 3, cli.datamodule.image_size, cli.datamodule.image_size))
    assert output.reconstruction.shape[-1] == cli.datamodule.image_size


def test_a_part_that_is_refused_while_another_asks_for_its_channels_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        build(
            "--config",
            str(CONFIGS / "debug.yaml"),
            "--model.init_args.tokenizer.init_args.quantizer.init_args.entropy_eps",
            "-1",
        )
    assert end.value.code == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "error: entropy_eps must be at least 0, got -1.0"


def test_sizes_are_said_once():
    sizes = ["--model.init_args.tokenizer.init_args.encoder.init_args.channels", "16"]
    sizes += [
        "--model.init_args.tokenizer.init_args.quantizer.init_args.num_bits",
        "5",
        "--data.init_args.image_size",
        "24",
    ]
    cli = build("--config", str(CONFIGS / "debug.yaml"), *sizes)
    tokenizer = cli.model.tokenizer
    assert tokenizer.encoder.latent_channels == tokenizer.decoder.latent_channels == tokenizer.quantizer.num_bits == 5
    assert tokenizer.encoder.channels == tokenizer.decoder.channels == 16
    assert (cli.datamodule.image_size, cli.datamodule.train.size) == (24, 24)


def test_a_value_that_refers_to_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("data: {init_args: {image_size: '${data.init_args.size}'}}")
    with pytest.raises(SystemExit) as refusal:
        build("--config", str(CONFIGS / "debug.yaml"), "--config", str(tmp_path / "mine.yaml"))
    assert refusal.value.code == 2
    said = capsys.readouterr().err
    assert "not found" in said
    assert "init_args.size" in said
    assert len(said.splitlines()) < 8


def test_every_callback_can_be_left_out():
    names = ("ema", "health", "checkpoint", "resumption", "progress", "images", "skipped_images")
    cli = build("--config", str(CONFIGS / "debug.yaml"), *(word for name in names for word in (f"--{name}", "null")))
    ours = [name for name, c in callbacks(cli).items() if type(c).__module__.startswith("open_magvit2")]
    assert not {"ExponentialMovingAverage", "ExactResumption"} & set(ours)
    assert set(ours) == {"_FirstStep", "_SaveConfig"}


class WithoutAnnotation:
    """A metric whose `compute` does not say what it returns."""

    def update(self, image: torch.Tensor) -> None: ...

    def compute(self): ...


def test_a_class_that_fulfils_no_protocol_is_refused_with_the_names_of_its_methods(capsys):
    with pytest.raises(SystemExit) as refusal:
        build(
            "--config", str(CONFIGS / "debug.yaml"), "--model.init_args.metrics", '["test_configs.WithoutAnnotation"]'
        )
    assert refusal.value.code == 2
    said = capsys.readouterr().err
    for part in (
        "WithoutAnnotation.compute is (self)",
        "-> dict[str, float]",
        "WithoutAnnotation.update",
        "no method reset",
    ):
        assert part in said


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
        (["--model.init_args.tokenizer.init_args.encoder.init_args.chanels", "8"], "chanels"),
        (["--model.init_args.tokenizer.init_args.encoder.init_args.channels", "wide"], "channels"),
        (
            ["--model.init_args.tokenizer.init_args.encoder.init_args.channels", "12"],
            "8 normalization groups do not divide 12",
        ),
        (["--model.init_args.tokenizer.init_args.quantizer.init_args.num_bits", "40"], "num_bits must be"),
        (["--trainer.max_stepz", "3"], "max_stepz"),
    ],
)
def test_mistakes_are_refused_by_name(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        build("--config", str(CONFIGS / "debug.yaml"), *arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_a_flag_changes_one_value_and_keeps_the_rest():
    cli = build("--config", str(CONFIGS / "debug.yaml"), "--ema.decay", "0.5", "--model.init_args.betas", "[0, 0.9]")
    assert cli.model.betas == (0.0, 0.9)
    assert cli.model.tokenizer.codebook_size == 256
    assert callbacks(cli)["ExponentialMovingAverage"].decay == 0.5
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
