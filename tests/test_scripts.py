"""Every Python script and the demo are really run: from training to pictures by command line."""

import sys
from pathlib import Path

import pytest
from commands import run, run_here
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "image_tokenizer"


DEBUG = ["--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml"]


def train(subcommand: str, *flags, folder: Path):
    """Run scripts/train.py with the debug config in a folder."""
    return run(sys.executable, ROOT / "scripts/train.py", subcommand, *DEBUG, *flags, folder=folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which the debug config was trained by command line."""
    folder = tmp_path_factory.mktemp("debug")
    result = train("fit", folder=folder)
    assert "training: 100%" in result.stderr
    assert "validation at step 8" in result.stderr
    return folder


@pytest.fixture(scope="module")
def checkpoint(trained) -> Path:
    return trained / "outputs/debug/version_0/checkpoints/last.ckpt"


def test_training_leaves_checkpoint_config_and_events(trained, checkpoint):
    assert checkpoint.is_file()
    version = trained / "outputs/debug/version_0"
    assert "num_bits: 8" in (version / "config.yaml").read_text()
    assert list(version.glob("events.out.tfevents.*"))


def test_a_checkpoint_validates_by_command_line(trained, checkpoint):
    result = train("validate", "--ckpt_path", checkpoint, folder=trained)
    assert "validation/psnr_image" in result.stdout + result.stderr


def test_training_continues_from_a_checkpoint(trained, checkpoint):
    more = ["--ckpt_path", checkpoint, "--trainer.max_steps", "12"]
    result = train("fit", *more, folder=trained)
    assert "validation at step 12" in result.stderr


@pytest.mark.long
def test_two_processes_train_by_command_line(tmp_path):
    flags = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    result = train("fit", *flags, folder=tmp_path)
    assert "distributed_backend=gloo" in result.stderr
    assert "Starting with 2 processes" in result.stderr
    assert result.stderr.count("validation at step 8") == 1  # one progress display, not one a process
    assert (tmp_path / "outputs/debug/version_0/checkpoints/last.ckpt").is_file()


def test_reconstruct_draws_built_in_images_and_photos_of_any_size(checkpoint, tmp_path):
    script = [ROOT / "scripts/reconstruct.py", "--checkpoint", checkpoint, "--output"]
    assert run_here(*script, tmp_path / "grid.png", "--built-in", "10", "--size", "32").returncode == 0
    assert Image.open(tmp_path / "grid.png").width > 8 * 64
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (37, 50), (200, 80, 20)).save(folder / "odd size.png")
    assert run_here(*script, tmp_path / "pictures", folder).returncode == 0
    assert Image.open(tmp_path / "pictures" / "odd size.png").size == (2 * 37 + 6, 50 + 4)


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.py")))
def test_every_python_script_explains_itself(script):
    shown = run_here(ROOT / "scripts" / script, "--help")
    assert shown.returncode == 0
    assert "usage:" in shown.stdout


def test_demo_explains_itself():
    shown = run("bash", ROOT / "scripts/demo.sh", "--help")
    assert "--stage1-only" in shown.stdout
    assert "usage:" in shown.stdout


@pytest.mark.long
def test_demo_runs_whole(tmp_path):
    """The demo script itself, with few steps; its full length is measured by hand."""
    stamp = ROOT / ".venv/installed-requirements.txt"
    if not stamp.is_file() or stamp.read_bytes() != (ROOT / "requirements.txt").read_bytes():
        pytest.skip("no .venv of scripts/setup.sh for this requirements.txt: the demo would install one")
    few = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "4"]
    run("bash", ROOT / "scripts/demo.sh", *few, DEMO_OUTPUT=str(tmp_path), DEMO_IMAGES="64")
    pictures = ("reconstructions.png", "samples.png")
    for name in ("checkpoints/last.ckpt", "results.json", "report.html", "generator/checkpoints/last.ckpt", *pictures):
        assert (tmp_path / name).is_file(), name
    words = ["--stage1-only", "--no_such_option"]
    mistaken = run("bash", ROOT / "scripts/demo.sh", *words, check=False, DEMO_OUTPUT=str(tmp_path))
    assert mistaken.returncode != 0
    assert "no_such_option" in mistaken.stderr
    assert "stage1" not in mistaken.stderr  # the script's own
    assert (tmp_path / "checkpoints/last.ckpt").is_file()  # an earlier result stays
