"""One command starts a run and continues it: --ckpt_path last, in the folder of the run, with its own configuration."""

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from open_magvit2.common import checkpoints
from open_magvit2.training.cli import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "image_tokenizer"


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch):
    """The command line under test is the one given, not pytest's."""
    monkeypatch.setattr("sys.argv", ["train.py"])


def fit(folder: Path, max_steps: int, *flags: str) -> Path:
    """`train.py fit --ckpt_path last` with the debug config; the folder of the run."""
    words = ["fit", "--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
    words += ["--trainer.max_steps", str(max_steps), "--trainer.logger.init_args.save_dir", str(folder)]
    words += ["--trainer.log_every_n_steps", "1", "--trainer.enable_model_summary", "false"]
    return Path(main([*words, "--ckpt_path", "last", "--checkpoint.every_steps", "3", *flags]).trainer.log_dir)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name != "train/images_per_second"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def test_last_continues_the_run_in_its_folder_from_the_newest_whole_file(tmp_path, caplog):
    run = fit(tmp_path / "run", 5)
    assert "training begins" in caplog.text
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


def test_compression_of_gradients_reaches_the_strategy():
    words = ["--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
    words += ["--trainer.strategy", "ddp", "--trainer.logger", "false"]
    for choice, hook in (("bf16", bf16_compress_hook), ("none", None)):
        trainer = main([*words, "--processes.gradient_compression", choice], run=False).trainer
        assert trainer.strategy._ddp_comm_hook is hook


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
