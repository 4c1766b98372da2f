"""One command starts a run and continues it: --ckpt_path last, in the folder of the run, with its own configuration."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from open_magvit2.common import checkpoints
from open_magvit2.training.cli import MISTAKE, main
from open_magvit2.training.resume import continuation

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "image_tokenizer"


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch):
    """The command line under test is the one given, not pytest's."""
    monkeypatch.setattr("sys.argv", ["train.py"])


@pytest.fixture(autouse=True)
def _own_precision():
    """A training allows TF32 in its process: not in that of the tests that follow."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


VERSION = "--trainer.logger.init_args.version"


def fit(folder: Path, max_steps: int, *flags: str, subcommand: str = "fit") -> Path:
    """`train.py fit --ckpt_path last` with the debug config; the folder of the run."""
    words = [subcommand, "--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
    words += ["--trainer.max_steps", str(max_steps), "--trainer.logger.init_args.save_dir", str(folder)]
    words += ["--trainer.log_every_n_steps", "1", "--trainer.enable_model_summary", "false"]
    return Path(main([*words, "--ckpt_path", "last", "--checkpoint.every_steps", "3", *flags]).trainer.log_dir)


@pytest.mark.long
def test_a_training_without_validation_saves_and_continues(tmp_path, capsys):
    without = ("--data.init_args.validation", "null")
    run = fit(tmp_path, 5, *without)
    assert fit(tmp_path, 7, *without) == run
    kept = [path.name for path in (run / "checkpoints").glob("*.ckpt")]
    assert "step_000000007.ckpt" in kept
    assert "best.ckpt" not in kept  # nothing says which is best
    assert not any(name.startswith("validation/") for name in scalars(run))
    with pytest.raises(SystemExit):
        fit(tmp_path, 7, *without, subcommand="validate")
    assert "data.init_args.validation is null" in capsys.readouterr().err


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name != "train/images_per_second"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


@pytest.mark.long
def test_last_continues_the_run_in_its_folder_from_the_newest_whole_file(tmp_path, caplog):
    run = fit(tmp_path / "run", 5)
    assert "training begins" in caplog.text
    assert torch.get_float32_matmul_precision() == "high"
    newest = run / "checkpoints" / "step_000000005.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])  # last.ckpt is the same file
    assert fit(tmp_path / "run", 7) == run
    assert f"{newest} is damaged" in caplog.text
    assert f"continuing from {run / 'checkpoints' / 'step_000000004.ckpt'}" in caplog.text
    # step 5 was logged twice, and TensorBoard shows it once
    undisturbed = fit(tmp_path / "undisturbed", 7)
    assert scalars(run) == scalars(undisturbed)
    assert [step for step, _ in scalars(run)["train/generator/total"]] == list(range(1, 8))
    last = [checkpoints.read(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (run, undisturbed)]
    assert checkpoints.differences(*last) == []


def test_last_does_not_begin_anew_in_another_folder_than_the_repository(tmp_path, monkeypatch, capsys, caplog):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(continuation, "_REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    fit(Path("outputs"), 1)
    assert f"no checkpoint in {tmp_path / 'elsewhere' / 'outputs' / 'debug'}" in caplog.text  # there is none anywhere
    (tmp_path / "elsewhere" / "outputs").rename(tmp_path / "outputs")
    said = refused(capsys, Path("outputs"))
    assert str(tmp_path / "elsewhere" / "outputs" / "debug") in said
    assert f"there are some in {tmp_path / 'outputs' / 'debug'}" in said


def test_a_log_file_gets_lines_of_progress_and_no_carriage_returns(tmp_path, capsys):
    fit(tmp_path, 4, "--progress.log_seconds", "0")
    screen = capsys.readouterr().err
    assert "\r" not in screen
    assert [line.split("|")[-1].split()[0] for line in screen.splitlines() if line.startswith("training:")][-1] == "4/4"
    assert any(line.startswith("validation at step 4:") for line in screen.splitlines())


def test_compression_of_gradients_reaches_the_strategy():
    words = ["--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
    words += ["--trainer.strategy", "ddp", "--trainer.logger", "false"]
    for choice, hook in (("bf16", bf16_compress_hook), ("none", None)):
        trainer = main([*words, "--ddp.gradient_compression", choice], run=False).trainer
        assert trainer.strategy._ddp_comm_hook is hook


def test_a_limit_of_one_batch_is_not_all_batches():
    words = ["--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
    words += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1.0"]
    trainer = main([*words, "--trainer.logger", "false"], run=False).trainer
    assert [repr(trainer.limit_train_batches), repr(trainer.limit_val_batches)] == ["1", "1.0"]


def test_a_checkpoint_says_what_it_was_made_with(tmp_path):
    run = fit(tmp_path, 1, "--model.init_args.learning_rate", "0.003")
    provenance = checkpoints.read(run / "checkpoints" / "last.ckpt")["provenance"]
    config = yaml.safe_load(provenance["config"])
    assert config["model"]["init_args"]["learning_rate"] == 0.003
    assert config["data"]["init_args"]["global_batch_size"] == 8
    assert {"torch", "pytorch_lightning", "python"} <= set(provenance["versions"])
    assert set(provenance["git"]) == {"revision", "dirty"}


def test_only_damaged_checkpoints_are_refused_shortly(tmp_path, capsys):
    folder = tmp_path / "debug" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(SystemExit) as refusal:
        fit(tmp_path, 1)
    assert refusal.value.code == 2
    assert "all 1 checkpoint(s) are damaged" in capsys.readouterr().err


def refused(capsys, folder: Path, *flags: str, subcommand: str = "fit") -> str:
    """What the command says before it ends by itself."""
    with pytest.raises(SystemExit) as refusal:
        fit(folder, 1, *flags, subcommand=subcommand)
    assert refusal.value.code == MISTAKE
    screen = capsys.readouterr().err
    assert "Traceback" not in screen
    return screen[screen.index("error: ") :]


@pytest.mark.long
def test_last_never_continues_another_run_of_the_same_name(tmp_path, capsys, caplog):
    mine = fit(tmp_path, 1)
    other = fit(tmp_path, 1, VERSION, "1", "--seed_everything", "1")
    for flags in ([], ["--seed_everything", "1"]):  # whichever of the two is asked for
        said = refused(capsys, tmp_path, *flags)
        for part in (str(mine), str(other), "not all of one run", "checkpoint.dirpath", "--ckpt_path FILE"):
            assert part in said
    assert fit(tmp_path, 1, VERSION, "0") == mine
    assert f"continuing from {mine}" in caplog.text
    # two folders of one and the same run: the newest goes on
    shutil.rmtree(other)
    shutil.copytree(mine, other, copy_function=shutil.copyfile)
    assert fit(tmp_path, 1) == other
    assert f"continuing from {other}" in caplog.text


@pytest.mark.long
def test_what_changed_since_the_checkpoint_is_said_once(tmp_path, caplog):
    def said() -> list[str]:
        found = [record.getMessage() for record in caplog.records if "changed since" in record.getMessage()]
        caplog.clear()
        return found

    run = fit(tmp_path, 1)
    assert fit(tmp_path, 1) == run
    assert said() == []
    fit(tmp_path, 2, "--data.init_args.global_batch_size", "4", "--model.init_args.gradient_clip_norm", "1")
    (message,) = said()
    assert message.splitlines()[1:] == [
        "  data.init_args.global_batch_size: 8 -> 4",
        "  model.init_args.gradient_clip_norm: null -> 1.0",
        "  trainer.max_steps: 1 -> 2",
    ]


def test_validation_of_a_checkpoint_that_is_not_there_is_refused(tmp_path, capsys):
    for word in ("last", "best"):
        said = refused(capsys, tmp_path, "--ckpt_path", word, subcommand="validate")
        assert f"--ckpt_path {word}: no checkpoint in {tmp_path / 'debug'}" in said


@pytest.mark.long
def test_best_is_the_best_file_of_the_run_and_other_words_are_refused(tmp_path, capsys, caplog):
    for word in ("hpc", "registry", "registry:name:version:1"):
        assert f"--ckpt_path {word} is not supported; expected last, best, or a file" in refused(
            capsys, tmp_path, "--ckpt_path", word
        )
    assert "no checkpoint in" in refused(capsys, tmp_path, "--ckpt_path", "best")
    best = fit(tmp_path, 4) / "checkpoints" / "best.ckpt"  # validates after 4 steps
    assert fit(tmp_path, 5, "--ckpt_path", "best") == tmp_path / "debug" / "version_1"  # goes back: a folder of its own
    fit(tmp_path, 5, "--ckpt_path", "best", subcommand="validate")
    assert caplog.text.count(f"continuing from {best}") == 2
    best.write_bytes(best.read_bytes()[:-1000])
    assert "all 1 checkpoint(s) are damaged" in refused(capsys, tmp_path, VERSION, "0", "--ckpt_path", "best")
