"""To add a training of your own: a LightningModule; the command line and its callbacks serve it."""

from as_a_user import PROJECT, User

from open_magvit2.common import checkpoints

FIT = ("train.py", "fit", "--config", PROJECT / "ten_lines.yaml", "--ckpt_path", "last")
KILL = ("--trainer.callbacks+=faults.Fault", "--trainer.callbacks.rank", "0", "--trainer.callbacks.kind", "kill")


def test_a_plain_lightning_module_is_killed_and_ends_where_an_uninterrupted_training_ends(tmp_path):
    ends = {}
    for name in ("whole", "killed"):
        user = User(tmp_path / name)
        user.folder.mkdir()
        if name == "killed":
            assert user.run(*FIT, *KILL, "--trainer.callbacks.at_step", "8", check=False).returncode == -9
        result = user.run(*FIT)
        assert "validation at step 12: loss" in result.stderr
        (log,) = (user.folder / "lightning_logs").iterdir()  # a continued run stays in its folder
        assert (log / "checkpoints" / "best.ckpt").is_file()
        ends[name] = checkpoints.read(log / "checkpoints" / "last.ckpt")
    for part in ("global_step", "state_dict", "current_model_state", "optimizer_states"):
        assert checkpoints.differences(ends["killed"][part], ends["whole"][part]) == [], part
    assert checkpoints.differences(ends["whole"]["state_dict"], ends["whole"]["current_model_state"])  # EMA and raw
