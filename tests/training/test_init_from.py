"""A new run starts from the weights of a file: of the tokenizer alone, or of the discriminator too."""

from pathlib import Path

import pytest
import torch
from commands import ROOT

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.image_tokenizer.export import save_published
from open_magvit2.training.cli import MISTAKE, main

CONFIGS = ROOT / "configs" / "image_tokenizer"


def command(*flags: object, run: bool = True):
    words = ["--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
    words += ["--trainer.enable_model_summary", "false", *map(str, flags)]
    return main([*(["fit"] if run else []), *words], run=run)


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """The last checkpoint of two steps."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    flags = [
        "--trainer.logger.init_args.save_dir",
        tmp_path / "first",
        "--trainer.max_steps",
        2,
        "--seed_everything",
        1,
    ]
    return Path(command(*flags).trainer.log_dir) / "checkpoints" / "last.ckpt"


def states_equal(module: torch.nn.Module, state: dict) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


@pytest.mark.long
@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("discriminator", [False, True])
def test_weights_of_a_file_start_a_run(file, weights, discriminator):
    flags = ["--init_from", file, "--init_weights", weights, "--init_discriminator", str(discriminator).lower()]
    model = command(*flags, run=False).model
    assert states_equal(model.tokenizer, load_tokenizer(file, weights=weights).state_dict())
    saved = checkpoints.with_prefix(checkpoints.read(file)["current_model_state"], "adversary.")
    assert states_equal(model.adversary, saved) == discriminator


@pytest.mark.long
def test_a_run_counts_from_its_own_first_step_and_its_averages_begin_at_the_file(file, tmp_path):
    flags = ["--trainer.logger.init_args.save_dir", tmp_path / "second", "--trainer.max_steps", 1, "--init_from", file]
    flags += ["--ema.decay", 0.999999, "--ema.warmup", "false", "--ckpt_path", "last"]
    trainer = command(*flags).trainer
    assert trainer.global_step == 1
    before = torch.nn.utils.parameters_to_vector(load_tokenizer(file).parameters())
    last = Path(trainer.log_dir) / "checkpoints" / "last.ckpt"
    after = torch.nn.utils.parameters_to_vector(load_tokenizer(last).parameters())
    assert torch.allclose(before, after, rtol=0, atol=1e-6)
    assert command(*flags, "--trainer.max_steps", 2).trainer.global_step == 2  # a continued run keeps its own weights


def test_published_files_start_a_run(shared):
    sizes, quantizer = "[1, 1, 2, 2]", "--model.init_args.tokenizer.init_args.quantizer.init_args."
    encoder = "--model.init_args.tokenizer.init_args.encoder.init_args."
    flags = [f"{encoder}channels", 32, f"{encoder}norm_groups", 32, f"{encoder}channel_multipliers", sizes]
    flags += [f"{quantizer}num_bits", 18, "--data.init_args.image_size", 16, "--trainer.max_steps", 1]
    path = shared / "fixtures" / "published_B_tiny.ckpt"
    for weights in ("ema", "raw"):
        model = command(*flags, "--init_from", path, "--init_weights", weights, run=False).model
        assert states_equal(model.tokenizer, load_tokenizer(path, weights=weights).state_dict())


@pytest.mark.long
def test_a_file_in_the_published_form_starts_a_run_and_has_no_discriminator(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py"])
    encoder = "--model.init_args.tokenizer.init_args.encoder.init_args."
    flags = [f"{encoder}channels", 32, f"{encoder}norm_groups", 32]
    flags += ["--trainer.logger.init_args.save_dir", tmp_path, "--trainer.max_steps", 1]
    last = Path(command(*flags).trainer.log_dir) / "checkpoints" / "last.ckpt"
    path = tmp_path / "published.ckpt"
    assert save_published(last, path)
    for weights in ("ema", "raw"):
        model = command(*flags, "--init_from", path, "--init_weights", weights, run=False).model
        assert states_equal(model.tokenizer, load_tokenizer(last, weights=weights).state_dict())
    with pytest.raises(SystemExit) as refusal:
        command(*flags, "--init_from", path, "--init_discriminator", "true")
    assert refusal.value.code == MISTAKE
    assert "missing in the file" in capsys.readouterr().err


@pytest.mark.long
def test_a_gan_term_is_added_to_a_tokenizer_that_had_none_and_misfits_are_refused(file, tmp_path, capsys):
    flags = ["--trainer.logger.init_args.save_dir", tmp_path / "alone", "--trainer.max_steps", 1]
    trainer = command(*flags, "--model.init_args.adversary", "null").trainer
    alone = Path(trainer.log_dir) / "checkpoints" / "last.ckpt"
    model = command("--init_from", alone, run=False).model
    assert model.adversary is not None
    assert states_equal(model.tokenizer, load_tokenizer(alone).state_dict())
    bits = "--model.init_args.tokenizer.init_args.quantizer.init_args.num_bits"
    for wrong, part in (
        (["--init_from", alone, "--init_discriminator", "true"], "missing in the file"),
        (["--init_from", alone, bits, "6"], "of another shape"),
        (["--ckpt_path", alone], "configuration has an adversary, the file has none. --init_from"),
        (["--ckpt_path", file, "--model.init_args.adversary", "null"], "file has an adversary, the configuration has"),
    ):
        with pytest.raises(SystemExit) as refusal:
            command(*wrong)
        assert refusal.value.code == MISTAKE
        assert part in capsys.readouterr().err
