"""A run that is interrupted and continued is bitwise the run that was not."""

import pytest
from interruptions import Crash, CrashAt, Record, content, fit

from open_magvit2.common import checkpoints


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run that nobody interrupts: what it logged, and what it saved after the last step."""
    folder = tmp_path_factory.mktemp("undisturbed")
    record = Record()
    fit(folder, record)
    return record, content(folder / "last.ckpt"), content(folder / "best.ckpt")


def assert_same(undisturbed, record, folder):
    expected, last, best = undisturbed
    assert checkpoints.differences(last, content(folder / "last.ckpt")) == []
    assert checkpoints.differences(best, content(folder / "best.ckpt")) == []
    assert record.scalars == expected.scalars
    assert record.images == expected.images


def test_the_undisturbed_run_has_all_the_states_that_are_compared(undisturbed):
    record, last, _ = undisturbed
    assert {"state_dict", "current_model_state", "averaging_state", "optimizer_states", "callbacks"} <= set(last)
    assert len(last["optimizer_states"]) == 2
    assert last["state_dict"]["discriminator_objective.lecam.ema_real"] != 0
    assert last["codebook_usage"]["counts"].sum() == 2 * 8 * 8 * 8  # steps 9 and 10: images, rows, columns
    assert ("train/learning_rate", 7) in record.scalars
    assert {step for name, step in record.scalars if name == "validation/psnr_image"} == {3, 6, 9}
    assert {step for name, step in record.scalars if name == "train/codebook_utilization"} == {4, 8}
    assert sorted(record.images) == list(range(10))


def test_a_run_interrupted_after_every_step(undisturbed, tmp_path):
    record = Record()
    for step in range(1, 10):
        # raised before the next step, after the validation if there was one: at steps 4 and 8 an epoch ends
        with pytest.raises(Crash):
            fit(tmp_path, record, CrashAt("on_train_batch_start", step), continued=step > 1)
    fit(tmp_path, record, continued=True)
    assert_same(undisturbed, record, tmp_path)


@pytest.mark.parametrize(
    ("hook", "step", "every_steps"),
    [
        ("on_train_batch_start", 5, 2),  # saved after step 4, where an epoch ends: a step is done again
        ("on_before_optimizer_step", 7, 3),  # in the middle of a step
        ("on_validation_batch_start", 6, 100),  # the validation that was due is made up for
        ("on_validation_end", 9, 100),  # ... also where the last one was validated, and before it was saved
    ],
)
def test_a_run_interrupted_anywhere(undisturbed, tmp_path, hook, step, every_steps):
    record, saving = Record(), {"every_steps": every_steps}
    with pytest.raises(Crash):
        fit(tmp_path, record, CrashAt(hook, step), saving=saving)
    fit(tmp_path, record, continued=True, saving=saving)
    assert_same(undisturbed, record, tmp_path)
