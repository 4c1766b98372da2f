"""Every script is really run: training to pictures by command line, launching on one machine and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "image_tokenizer"


def run(*command, folder=ROOT, check=True, **environment) -> subprocess.CompletedProcess:
    """Run a command; its whole output is shown if it fails."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "NODE_", "NUM_NODES"))}
    result = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**variables, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert not check or result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which the debug config was trained by command line."""
    folder = tmp_path_factory.mktemp("debug")
    files = ["--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml"]
    result = run(sys.executable, ROOT / "scripts/train.py", "fit", *files, folder=folder)
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
    files = ["--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml"]
    result = run(sys.executable, ROOT / "scripts/train.py", "validate", *files, "--ckpt_path", checkpoint, folder=trained)
    assert "validation/psnr_image" in result.stdout + result.stderr


def test_training_continues_from_a_checkpoint(trained, checkpoint):
    files = ["--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml"]
    more = ["--ckpt_path", checkpoint, "--trainer.max_steps", "12"]
    result = run(sys.executable, ROOT / "scripts/train.py", "fit", *files, *more, folder=trained)
    assert "validation at step 12" in result.stderr


def test_two_processes_train_by_command_line(tmp_path):
    files = ["--config", CONFIGS / "base.yaml", "--config", CONFIGS / "debug.yaml"]
    flags = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    result = run(sys.executable, ROOT / "scripts/train.py", "fit", *files, *flags, folder=tmp_path)
    assert "distributed_backend=gloo" in result.stderr
    assert "Starting with 2 processes" in result.stderr
    assert result.stderr.count("validation at step 8") == 1  # one progress display, not one a process
    assert (tmp_path / "outputs/debug/version_0/checkpoints/last.ckpt").is_file()


def test_evaluate_writes_results(checkpoint, tmp_path):
    run(
        *(sys.executable, ROOT / "scripts/evaluate.py", "--checkpoint", checkpoint, "--built-in", "5"),
        *("--image-size", "32", "--metrics", "psnr,ssim,codebook_usage", "--output", tmp_path),
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_images"] == 5
    assert 0 < results["metrics"]["codebook_utilization"] <= 1
    assert {"psnr_image", "ssim_image"} <= set(results["metrics"])


def test_reconstruct_draws_built_in_images_and_photos_of_any_size(checkpoint, tmp_path):
    script = [sys.executable, ROOT / "scripts/reconstruct.py", "--checkpoint", checkpoint, "--output"]
    run(*script, tmp_path / "grid.png", "--built-in", "10", "--size", "32")
    assert Image.open(tmp_path / "grid.png").width > 8 * 64
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (37, 50), (200, 80, 20)).save(folder / "odd size.png")
    run(*script, tmp_path / "pictures", folder)
    assert Image.open(tmp_path / "pictures" / "odd size.png").size == (2 * 37 + 6, 50 + 4)


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.py")))
def test_every_python_script_explains_itself(script):
    assert "usage:" in run(sys.executable, ROOT / "scripts" / script, "--help").stdout


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """A tiny folder in ImageNet's layout, and a config that makes the B model tiny."""
    for split, number in (("train", 8), ("val", 4)):
        for index in range(number):
            path = tmp_path / "imagenet" / split / f"n0144076{index % 2}" / f"image_{index}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 36), 90).convert("RGB").save(path)
    (tmp_path / "tiny.yaml").write_text("""
model:
  init_args:
    tokenizer: {init_args: {channels: 8, norm_groups: 8, num_residual_blocks: 1}}
    generator_objective: {init_args: {perceptual_weight: 0}}
    discriminator: {init_args: {channels: 4, num_layers: 2}}
    micro_batch_size: 2
data: {init_args: {image_size: 32, global_batch_size: 4, num_workers: 0, validation_batch_size: 2}}
trainer: {accelerator: cpu, precision: 32-true, max_steps: 2, val_check_interval: 2, log_every_n_steps: 1}
""")
    return tmp_path


def launch(script, folder, *flags, **environment):
    """Start a training script on the CPU with the tiny model."""
    flags = [*flags, "--config", folder / "tiny.yaml", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    flags += ["--trainer.logger.init_args.save_dir", folder / "outputs"]
    return run("bash", ROOT / script, *flags, IMAGENET_ROOT=str(folder / "imagenet"), **environment)


def test_run_b_128_trains_and_prints_what_it_runs(imagenet):
    result = launch("run_B_128.sh", imagenet)
    assert "about to run:" in result.stderr
    assert "imagenet_B_128.yaml" in result.stderr
    assert (imagenet / "outputs/imagenet_B_128/version_0/checkpoints/last.ckpt").is_file()


def test_run_b_256_trains_on_two_machines(imagenet):
    """Two launches that find each other by MASTER_ADDR and MASTER_PORT, one process each, over gloo."""
    import socket
    from concurrent.futures import ThreadPoolExecutor

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    def machine(rank: int):
        words = ["127.0.0.1", str(port), str(rank)]
        flags = [ROOT / "run_B_256.sh", *words, "--config", imagenet / "tiny.yaml", "--trainer.accelerator", "cpu"]
        flags += ["--trainer.devices", "1", "--trainer.logger.init_args.save_dir", imagenet / "outputs"]
        return run("bash", *flags, IMAGENET_ROOT=str(imagenet / "imagenet"), NUM_NODES="2")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(machine, range(2))
    assert "machine 0 of 2" in first.stderr
    assert "machine 1 of 2" in second.stderr
    assert "distributed_backend=gloo" in first.stderr
    assert (imagenet / "outputs/imagenet_B_256/version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {"IMAGENET_ROOT": "nowhere"}, "no ImageNet at nowhere/train: set IMAGENET_ROOT"),
        ([], {"PYTHON": "/bin/false"}, "cannot import open_magvit2"),
        (["10.0.0.1", "29500"], {}, "expected MASTER_ADDR MASTER_PORT NODE_RANK"),
        (["10.0.0.1", "29500", "0"], {}, "NUM_NODES"),
        (["10.0.0.1", "29500", "4"], {"NUM_NODES": "4"}, "NODE_RANK 4 is no rank"),
        (["--trainer.accelerator", "cpu"], {"NUM_NODES": "2"}, "MASTER_ADDR is not set"),
    ],
)
def test_launching_fails_early_and_clearly(imagenet, words, environment, message):
    defaults = {"IMAGENET_ROOT": str(imagenet / "imagenet")}
    flags = [] if "NODE_RANK" not in message else ["--trainer.accelerator", "cpu"]
    result = run("bash", ROOT / "run_B_128.sh", *words, *flags, check=False, **{**defaults, **environment})
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_launching_without_a_gpu_is_refused(imagenet):
    result = run("bash", ROOT / "run_B_128.sh", check=False, IMAGENET_ROOT=str(imagenet / "imagenet"))
    assert result.returncode == 2
    assert "PyTorch sees no GPU" in result.stderr


def test_demo_runs_whole(tmp_path):
    """The demo script itself, with few steps; its full length is measured by hand."""
    if not (ROOT / ".venv/installed-requirements.txt").is_file():
        pytest.skip("no .venv of scripts/setup.sh here: the demo would install one")
    few = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "4"]
    run("bash", ROOT / "scripts/demo.sh", *few, DEMO_OUTPUT=str(tmp_path))
    for name in ("checkpoints/last.ckpt", "results.json", "reconstructions.png"):
        assert (tmp_path / name).is_file(), name
