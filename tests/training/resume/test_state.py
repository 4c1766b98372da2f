"""A run that is interrupted and continued is bitwise the run that was not."""

import json
import shutil
import sys
from pathlib import Path

import commands
import pytest
import torch
from image_tokenizer import small_training
from interruptions import Crash, CrashAt, Record, content, data, fit
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision

from open_magvit2.common import checkpoints
from open_magvit2.data.order import random_stream
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint
from open_magvit2.training.resume.state import ExactResumption


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
    assert last["state_dict"]["adversary.lecam.ema_real"] != 0
    assert last["codebook_usage"]["counts"].sum() == 2 * 8 * 8 * 8  # steps 9 and 10: images, rows, columns
    assert ("train/learning_rate", 7) in record.scalars
    assert {step for name, step in record.scalars if name == "validation/psnr_image"} == {3, 6, 9}
    assert {step for name, step in record.scalars if name == "train/codebook_utilization"} == {4, 8}
    assert sorted(record.images) == list(range(10))


@pytest.mark.long
def test_a_run_interrupted_after_every_step(undisturbed, tmp_path):
    record = Record()
    for step in range(1, 10):
        # raised before the next step, after the validation if there was one: at steps 4 and 8 an epoch ends
        with pytest.raises(Crash):
            fit(tmp_path, record, CrashAt("on_train_batch_start", step), continued=step > 1)
    fit(tmp_path, record, continued=True)
    assert_same(undisturbed, record, tmp_path)


def test_a_run_continued_without_averages_goes_on_from_the_raw_weights(undisturbed, tmp_path):
    fit(tmp_path, Record(), max_steps=4)
    callbacks = [TrainingCheckpoint(str(tmp_path)), ExactResumption()]
    run = small_training.trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True, max_steps=10)
    run.fit(small_training.module(usage_window=4), data(), ckpt_path=tmp_path / "last.ckpt")
    expected, found = undisturbed[1]["current_model_state"], content(tmp_path / "last.ckpt")["state_dict"]
    assert checkpoints.differences(expected, found) == []


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


def test_the_last_validation_is_made_up_for_when_training_is_over(undisturbed, tmp_path):
    record, saving = Record(), {"every_steps": 100}
    with pytest.raises(Crash):
        fit(tmp_path, record, CrashAt("on_validation_batch_start", 9), saving=saving, max_steps=9)
    assert ("validation/psnr_image", 9) not in record.scalars
    run = fit(tmp_path, record, continued=True, saving=saving, max_steps=9)
    assert ("validation/psnr_image", 9) in record.scalars
    assert run.global_step == run.max_steps == 9
    fit(tmp_path, record, continued=True, saving=saving)
    assert_same(undisturbed, record, tmp_path)


class Draw(Callback):
    """Draws from PyTorch's global generator in every step, as dropout would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.logger.log_metrics({"drawn": torch.rand(()).item()}, step=trainer.global_step)


@pytest.mark.long
def test_loss_scale_random_numbers_and_workers_that_load_ahead(tmp_path):
    def run(folder, record, *callbacks, **options):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
        fit(folder, record, Draw(), *callbacks, plugins=plugins, datamodule=data(num_workers=2), **options)

    records = Record(), Record()
    run(tmp_path / "undisturbed", records[0])
    for step, continued in ((5, False), (8, True)):  # within an epoch, and at the end of one
        with pytest.raises(Crash):
            run(tmp_path / "disturbed", records[1], CrashAt("on_train_batch_start", step), continued=continued)
    run(tmp_path / "disturbed", records[1], continued=True)
    last = [content(tmp_path / name / "last.ckpt") for name in ("undisturbed", "disturbed")]
    assert checkpoints.differences(*last) == []
    assert last[0]["MixedPrecision"]["scale"] == 2.0**13
    assert records[0].scalars == records[1].scalars
    assert len({value for (name, _), value in records[0].scalars.items() if name == "drawn"}) == 10
    assert records[0].images == records[1].images


def order(num_images: int, epoch: int, seed: int = 0) -> list[int]:
    return [int(index) for index in random_stream("shuffle", seed, epoch).permutation(num_images)]


def test_another_global_batch_continues_at_the_right_image(tmp_path):
    fit(tmp_path, Record(), max_steps=6)  # an epoch of 4 steps, 2 of the next
    record = Record()
    fit(tmp_path, record, continued=True, datamodule=data(global_batch_size=4))
    rest = order(35, epoch=1)[16:32]
    assert [record.images[step][:4] for step in (6, 7, 8, 9)] == [rest[i : i + 4] for i in (0, 4, 8, 12)]


def test_other_data_begins_the_next_epoch_and_says_so(tmp_path, caplog):
    fit(tmp_path, Record(), max_steps=5)
    record = Record()
    fit(tmp_path, record, continued=True, datamodule=data(num_images=34))
    assert "saved {'num_samples': 35, 'seed': 0}, now {'num_samples': 34, 'seed': 0}" in caplog.text
    assert record.images[5][:8] == order(34, epoch=2)[:8]


@pytest.mark.long
def test_two_processes_resume_exactly_and_one_goes_on_from_them(tmp_path, caplog):
    """DDP over gloo, ended by a signal that reaches the second rank alone; then continued by two processes, and by one.

    Ranks have BatchNorm statistics and random numbers of their own.
    """
    script = Path(__file__).with_name("resume_with_ddp.py")
    commands.run(sys.executable, script, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["exit_codes"] == [75, 75]
    assert result["stopped_at"] == 5
    assert result["differences"] == [[], []]
    assert result["broadcasts"] == 0
    assert result["statistics_of_ranks_differ"]
    undisturbed, disturbed = (content(tmp_path / name / "last.ckpt") for name in ("undisturbed", "disturbed"))
    assert checkpoints.differences(undisturbed, disturbed) == []

    shutil.copytree(tmp_path / "stopped", tmp_path / "alone")
    record = Record()
    fit(tmp_path / "alone", record, continued=True)
    assert "saved on 2 device(s), continuing on 1" in caplog.text
    # each rank trained on its half of these: the same images in the same order, with the same crops
    images, sums = zip(*[(v[: len(v) // 2], v[len(v) // 2 :]) for v in record.images.values()], strict=True)
    halves = [
        [json.loads((tmp_path / f"images_{rank}.json").read_text())[str(s)] for rank in (0, 1)] for s in range(5, 10)
    ]
    assert list(images) == [first[:4] + second[:4] for first, second in halves]
    assert list(sums) == [first[4:] + second[4:] for first, second in halves]
