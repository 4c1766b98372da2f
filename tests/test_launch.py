"""The training scripts are really launched: on one machine and on two, and refused early where they cannot work."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from commands import ROOT, run
from PIL import Image


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
    tokenizer: {init_args: {encoder: {init_args: {channels: 8, norm_groups: 8, num_residual_blocks: 1}}}}
    generator_objective: {init_args: {perceptual_weight: 0}}
    adversary: {init_args: {discriminator: {init_args: {channels: 4, num_layers: 2}}}}
    micro_batch_size: 2
data: {init_args: {image_size: 32, global_batch_size: 4, num_workers: 0, validation_batch_size: 2}}
trainer: {accelerator: cpu, precision: 32-true, max_steps: 2, val_check_interval: 2, log_every_n_steps: 1}
""")
    return tmp_path


@pytest.mark.long
def test_run_b_128_trains_on_two_devices_and_prints_what_it_runs(imagenet):
    flags = ["--config", imagenet / "tiny.yaml", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    flags += ["--trainer.logger.init_args.save_dir", imagenet / "outputs"]
    result = run("bash", ROOT / "run_B_128.sh", *flags, IMAGENET_ROOT=str(imagenet / "imagenet"))
    assert "about to run:" in result.stderr
    assert "imagenet_B_128.yaml" in result.stderr
    assert "Starting with 2 processes" in result.stderr
    assert (imagenet / "outputs/imagenet_B_128/version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.long
def test_run_b_256_trains_on_two_machines(imagenet):
    """Two launches that find each other by MASTER_ADDR and MASTER_PORT, one process each, over gloo."""
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


@pytest.mark.parametrize("words", [["--help"], ["imagenet_B_128", "--help"], ["imagenet_B_128", "-h"]])
def test_help_is_printed_without_anything_else(words):
    result = run("bash", ROOT / "scripts" / "launch.sh", *words, PYTHON="/bin/false")
    assert result.stdout.startswith("usage:")
    assert result.stderr == ""


@pytest.mark.parametrize("words", [[], ["imagenet_Z"]])
def test_an_unknown_config_is_refused(words):
    result = run("bash", ROOT / "scripts" / "launch.sh", *words, check=False)
    assert result.returncode == 2
    assert "configs/image_tokenizer" in result.stderr.splitlines()[0]


@pytest.fixture
def python(imagenet) -> Callable[[int], dict[str, str]]:
    """Environment with an interpreter that claims so many GPUs, and prints its command instead of running it."""

    def environment(gpus: int) -> dict[str, str]:
        path = imagenet / "python"
        path.write_text(
            f'#!/bin/sh\ncase "$*" in *device_count*) echo {gpus};; *scripts/train.py*) echo "runs: $*";; esac\n'
        )
        path.chmod(0o755)
        return {"IMAGENET_ROOT": str(imagenet / "imagenet"), "PYTHON": str(path)}

    return environment


@pytest.mark.parametrize(
    ("gpus", "flags", "processes"),
    [
        (8, [], 8),
        (1, [], None),
        (8, ["--trainer.devices", "2"], 2),
        (8, ["--trainer.devices=1"], None),
        (0, ["--trainer.accelerator", "cpu", "--trainer.devices", "2"], 2),
    ],
)
def test_one_process_a_device_is_started(python, gpus, flags, processes):
    result = run("bash", ROOT / "run_B_128.sh", *flags, **python(gpus))
    assert ("training/launch.py" in result.stdout) == (processes is not None)
    if processes is not None:
        assert f"--processes {processes} --nodes 1 " in result.stdout
        assert f"--trainer.devices {processes} --trainer.num_nodes 1" in result.stdout


def test_runs_lie_in_the_repository_from_whatever_folder_they_are_started(python, tmp_path):
    result = run("bash", ROOT / "run_B_128.sh", "--ckpt_path", "last", folder=tmp_path, **python(1))
    assert f"--trainer.logger.init_args.save_dir {ROOT}/outputs" in result.stdout


def test_srun_without_tasks_per_node_is_refused(python):
    slurm = {"SLURM_PROCID": "3", "SLURM_NNODES": "2", "SLURM_NTASKS": "16"}
    result = run("bash", ROOT / "run_B_128.sh", check=False, **python(8), **slurm)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "--ntasks-per-node" in result.stderr
    assert "runs" not in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_launching_without_a_gpu_is_refused(imagenet):
    result = run("bash", ROOT / "run_B_128.sh", check=False, IMAGENET_ROOT=str(imagenet / "imagenet"))
    assert result.returncode == 2
    assert "PyTorch sees no GPU" in result.stderr


@pytest.mark.parametrize(
    ("gpus", "tasks", "message"),
    [
        (1, 8, "each sees 1 GPU and Lightning expects to see all 8: use --gpus-per-node 8"),
        (8, 4, "8 GPUs are visible: use one task a GPU"),
        (8, 8, None),
        (1, 1, None),
    ],
)
def test_a_slurm_task_must_see_all_gpus_of_its_machine(python, gpus, tasks, message):
    slurm = {"SLURM_PROCID": "0", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": f"{tasks}(x2)"}
    result = run("bash", ROOT / "run_B_128.sh", check=False, **python(gpus), **slurm)
    if message is None:
        assert result.returncode == 0, result.stderr
        assert f"--trainer.devices {tasks} --trainer.num_nodes 2" in result.stdout
        assert "training/launch.py" not in result.stdout
    else:
        assert result.returncode == 2
        assert message in result.stderr
        assert "runs" not in result.stdout
