"""Mistakes in a configuration and hostile files end `fit` before its first step, in a few lines, without a trace."""

import contextlib
import pickle
import re
from pathlib import Path

import pytest
import torch
from small_checkpoint import save_small_checkpoint

from open_magvit2 import load_tokenizer
from open_magvit2.common import checkpoints
from open_magvit2.training.cli import MISTAKE, main

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "image_tokenizer"
FIT = ["fit", "--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
DATA, TOKENIZER = "--data.init_args.", "--model.init_args.tokenizer.init_args."
ENCODER = TOKENIZER + "encoder.init_args."
OBJECTIVE, ADVERSARY = "--model.init_args.generator_objective.init_args.", "--model.init_args.adversary.init_args."


def refused(monkeypatch, capsys, *flags: object) -> str:
    """What `fit` says before it ends by itself."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        main([*FIT, *map(str, flags)])
    assert ended.value.code == MISTAKE
    screen = capsys.readouterr().err
    assert "Traceback" not in screen
    said = screen[screen.index("error: ") :]
    assert len(said.splitlines()) <= 20
    assert max(map(len, said.splitlines())) < 400  # nobody reads a whole configuration on one line
    return said


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([DATA + "image_size", "30"], ["image_size is 30", "multiples of 4", "30 x 30", "channel_multipliers"]),
        ([DATA + "global_batch_size", "10"], ["10 samples", "no multiple of micro_batch_size 4", "global_batch_size"]),
        ([DATA + "global_batch_size", "64"], ["holds 32 image(s)", "batch of 64", "Lower global_batch_size"]),
        ([ENCODER + "channels", "12"], ["8 normalization groups do not divide 12", "multiple of 8"]),
        ([TOKENIZER + "quantizer.init_args.num_bits", "0"], ["must be", "got 0"]),
        ([TOKENIZER + "quantizer.init_args.codebook_size", "1000"], ["codebook_size"]),
        ([DATA + "train.init_args.num_images", "0"], ["num_images must be at least 1", "got 0"]),
        ([ENCODER + "norm_groups", "3"], ["3 normalization groups do not divide 8"]),
        (["--health.lowest_entropy", "1.5"], ["health.lowest_entropy must be in [0, 1]", "got 1.5"]),
        (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        (["--checkpoint.monitor", "validation/fid"], ["monitor is 'validation/fid'", "psnr_image"]),
        (
            [DATA + "image_size", "4", DATA + "train.init_args.size", "32", DATA + "validation.init_args.size", "32"],
            ["SSIM needs images of at least", "(4, 4)"],
        ),
        (["--trainer.log_every_n_steps", "0"], ["trainer.log_every_n_steps must be at least 1", "got 0"]),
        (["--trainer.check_val_every_n_epoch", "0"], ["trainer.check_val_every_n_epoch must be at least 1", "got 0"]),
        (["--trainer.val_check_interval", "0"], ["trainer.val_check_interval must be above 0", "got 0"]),
        (["--seed_everything", "-1"], ["seed_everything must be in [0, 4294967295]", "got -1"]),
        (["--ddp.timeout_minutes", "0"], ["ddp.timeout_minutes must be above 0", "got 0"]),
        (["--checkpoint.every_minutes", "0"], ["checkpoint.every_minutes must be above 0", "got 0"]),
        ([DATA + "num_workers", "1.5"], ["num_workers", "1.5"]),
        (["--model.init_args.learning_rate", ".inf"], ["learning_rate must be finite", "got inf"]),
        ([OBJECTIVE + "reconstruction_weight", "-1"], ["reconstruction_weight must be at least 0", "got -1"]),
        ([OBJECTIVE + "entropy_annealing_steps", "-5"], ["entropy_annealing_steps must be at least 0", "got -5"]),
        ([ADVERSARY + "lecam_decay", "1.5"], ["lecam_decay must be in [0, 1)", "got 1.5"]),
        ([ADVERSARY + "discriminator.init_args.num_layers", "-3"], ["num_layers must be at least 0", "got -3"]),
        (
            ["--trainer.devices", "2", "--trainer.use_distributed_sampler", "true"],
            ["trainer.use_distributed_sampler must be false"],
        ),
        (
            ["--trainer.devices", "2", "--trainer.val_check_interval", "00:00:30:00"],
            ["trainer.val_check_interval is the time 00:00:30:00", "checkpoint.every_minutes"],
        ),
        (["--optimizer", "Adam"], ["--optimizer"]),
        (["--lr_scheduler", "StepLR"], ["--lr_scheduler"]),
        (["--trainer.gradient_clip_val", "0.5"], ["use model.init_args.gradient_clip_norm 0.5"]),
        (
            ["--trainer.accumulate_grad_batches", "2"],
            ["data.init_args.global_batch_size", "init_args.micro_batch_size"],
        ),
        (
            [
                DATA + "train",
                "open_magvit2.data.sources.image_folder.ImageFolder",
                DATA + "train.init_args.root",
                "no/such",
            ],
            ["no/such"],
        ),
        (["--model.init_args.adversary", "subprocess.Popen"], ["subprocess.Popen"]),
    ],
    ids=lambda value: value[0].rpartition(".")[2] if isinstance(value[0], str) and "-" in value[0] else "",
)
def test_a_mistake_is_refused_with_what_to_do(tmp_path, monkeypatch, capsys, flags, parts):
    monkeypatch.chdir(tmp_path)
    said = refused(monkeypatch, capsys, *flags)
    for part in parts:
        assert part in said


def test_what_lightning_refuses_of_a_slurm_job_is_said_in_its_words(monkeypatch, capsys):
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    for name, value in {**job, "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert "--ntasks-per-node=2" in refused(monkeypatch, capsys)


def test_slurm_tasks_that_would_each_train_alone_are_refused(monkeypatch, capsys):
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    for name, value in {**job, "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert "srun runs 4 tasks" in refused(monkeypatch, capsys, "--trainer.devices", "1")


def test_a_file_that_says_a_section_twice_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_steps: 3\nema: null\ntrainer:\n  max_epochs: 1\n")
    said = refused(monkeypatch, capsys, "--config", tmp_path / "mine.yaml")
    assert "mine.yaml has the key trainer a second time in line 4" in said
    (tmp_path / "mine.yaml").write_text("trainer:\n  callbacks:\n  - {a: 1}\n  - {a: 1, a: 3}\n")
    assert "the key a a second time in line 4" in refused(monkeypatch, capsys, f"--config={tmp_path}/mine.yaml")


@pytest.mark.parametrize(("room", "name"), [("image_tokenizer", "debug"), ("generators", "bitwise")])
def test_a_recipe_without_its_base_says_so(monkeypatch, capsys, room, name):
    file = CONFIGS.parent / room / f"{name}.yaml"
    for flags in (["--config", str(file)], [f"--config={file}"]):
        with pytest.raises(SystemExit):
            main(["fit", *flags])
        assert f"give --config {file.with_name('base.yaml')} before it" in capsys.readouterr().err
    assert "before it" not in refused(monkeypatch, capsys, "--config", CONFIGS / "imagenet_B_128.yaml", "--model.no", 1)


def test_a_checkpoint_of_another_architecture_is_refused_by_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = torch.load(save_small_checkpoint(tmp_path / "other.ckpt"), weights_only=True)
    # what Lightning asks of a checkpoint before it hands it to the module
    content |= {"pytorch-lightning_version": "2.6.0", "global_step": 1, "epoch": 0, "loops": {}, "callbacks": {}}
    torch.save(content, tmp_path / "other.ckpt")
    said = refused(monkeypatch, capsys, "--ckpt_path", tmp_path / "other.ckpt")
    for part in (
        "another tokenizer",
        "num_bits: 6 in the file, 8 in the configuration",
        "norm_groups: 4",
        "config.yaml",
    ):
        assert part in said


REFUSED = "could run code|is no PyTorch checkpoint"  # a plain pickle is the latter


class Hostile:
    """Unpickled without care, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(params=["zip", "legacy", "plain pickle"])
def hostile(request, tmp_path) -> Path:
    """A checkpoint that runs code when it is unpickled; `ran` next to it would be the proof."""
    content, path = {"state_dict": {}, "x": Hostile(tmp_path / "ran")}, tmp_path / "hostile.ckpt"
    if request.param == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def test_a_hostile_checkpoint_runs_nothing(hostile, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=REFUSED):
        load_tokenizer(hostile)
    assert re.search(REFUSED, refused(monkeypatch, capsys, "--ckpt_path", hostile))
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(RuntimeError):  # a plain pickle runs, and then is no checkpoint
        torch.load(hostile, weights_only=False)  # the file is what it claims to be: read without care, it runs
    assert (tmp_path / "ran").exists()


def test_a_hostile_weight_file_runs_nothing(hostile, tmp_path):
    path = hostile.rename(tmp_path / "vgg16-397923af.pth")
    with pytest.raises(ValueError, match=REFUSED):
        checkpoints.read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10**9])
def test_a_header_of_safetensors_that_claims_more_than_the_file_is_refused(tmp_path, size):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + b"{}" * 8)
    with pytest.raises(ValueError, match="damaged or cut short"):
        checkpoints.read(path)
