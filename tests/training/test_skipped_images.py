"""Unreadable training images: counted once, over ranks, workers, epochs and resumption; too many end the training."""

import csv
import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from small_run import OneNumber, data, make_images, trainer

from open_magvit2.data.decoding import UnreadableImageError
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.training.resume.checkpoint_files import newest_whole
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint, TrainingStopped
from open_magvit2.training.resume.state import ExactResumption
from open_magvit2.training.skipped_images import FILE_NAME, SkippedImages

BROKEN = {0, 7, 21, 40}


@pytest.fixture
def folder(tmp_path):
    make_images(tmp_path / "images", BROKEN)
    return tmp_path / "images"


def names(folder, indices=BROKEN):
    return {str(folder / "train" / f"{index:02d}.png") for index in indices}


def counts(output, version=0):
    """(step, data/skipped) as the logger wrote them."""
    with open(output / f"csv/version_{version}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["step"]), int(float(row["data/skipped"]))) for row in rows if row["data/skipped"]]


def listed(output, version=0):
    """The lines of the run's list, split at the tab."""
    return [line.split("\t") for line in (output / f"csv/version_{version}" / FILE_NAME).read_text().splitlines()]


def test_each_file_is_named_once_and_counted(folder, tmp_path, caplog):
    module = OneNumber()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path).fit(module, datamodule=data(folder))
    lines = listed(tmp_path)
    assert len(lines) == len(BROKEN)
    assert {path for path, _ in lines} == names(folder)
    assert all("truncated" in cause for _, cause in lines)
    found = counts(tmp_path)
    assert [step for step, _ in found] == [2, 4, 6, 8, 10, 12]
    assert [count for _, count in found] == sorted(count for _, count in found)
    assert found[-1][1] == len(BROKEN)
    said = [record.message for record in caplog.records if "training images so far" in record.message]
    assert said
    assert "4 of 48 training images so far (8.33%)" in said[-1]
    assert FILE_NAME in said[-1]
    assert len(module.skipped) > len(BROKEN)  # met in both epochs, counted once
    # the list excludes the files from the next run
    assert len(ImageFolder(folder / "train", exclude=tmp_path / "csv/version_0" / FILE_NAME)) == 48 - len(BROKEN)


def test_two_ranks_with_two_workers_each_count_what_one_process_counts(folder, tmp_path):
    script = Path(__file__).parent / "small_run.py"
    run(sys.executable, script, folder, tmp_path / "two", "2")
    seen = json.loads((tmp_path / "two/seen.json").read_text())
    alone = OneNumber()
    trainer(tmp_path / "one").fit(alone, datamodule=data(folder))
    assert set(map(len, seen["skipped"])) != {0}
    together = [first + second for first, second in zip(*seen["shown"], strict=True)]
    assert together == alone.shown  # the same images, replacements included
    assert counts(tmp_path / "two") == counts(tmp_path / "one")
    assert len(listed(tmp_path / "two")) == len(BROKEN)
    assert sorted(listed(tmp_path / "two")) == sorted(listed(tmp_path / "one"))
    assert seen["known"][0] == seen["known"][1] == dict(listed(tmp_path / "one"))  # so both end if they are too many
    for step in (3, 9):  # between two log steps: a checkpoint holds what both ranks have met by then
        saved = torch.load(tmp_path / f"two/step={step}.ckpt", weights_only=True)["callbacks"]["SkippedImages"]
        met = {path for shard in seen["skipped"] for number, path in shard if number <= step}
        assert set(saved["causes"]) == met != set()


@pytest.mark.parametrize("num_steps", [4, 6])  # within an epoch and at its end
def test_a_resumed_run_counts_what_an_uninterrupted_one_does(folder, tmp_path, num_steps):
    def train(name, **options):
        module, callbacks = OneNumber(), [SkippedImages(), ExactResumption()]
        run = trainer(tmp_path / name, callbacks=callbacks, enable_checkpointing=True, **options.pop("trainer", {}))
        run.fit(module, datamodule=data(folder), **options)
        return run, module

    _, whole = train("whole")
    first, begun = train("parts", trainer={"max_steps": num_steps})
    first.save_checkpoint(tmp_path / "first.ckpt")
    _, continued = train("parts", ckpt_path=tmp_path / "first.ckpt")
    assert begun.shown + continued.shown == whole.shown  # replacements included
    assert counts(tmp_path / "parts", 0) + counts(tmp_path / "parts", 1) == counts(tmp_path / "whole")
    assert sorted(listed(tmp_path / "parts", 1)) == sorted(listed(tmp_path / "whole"))


def test_a_run_that_ends_before_its_first_log_step_names_them_as_well(folder, tmp_path):
    trainer(tmp_path, max_epochs=1, log_every_n_steps=6 + 1).fit(OneNumber(), datamodule=data(folder))
    assert {path for path, _ in listed(tmp_path)} == names(folder)


def test_too_many_end_the_training_with_the_way_out(folder, tmp_path):
    with pytest.raises(TrainingStopped) as caught:
        trainer(tmp_path).fit(OneNumber(), datamodule=data(folder, max_skipped_share=0.03))
    message = str(caught.value)
    assert torch.load(next(tmp_path.rglob("stopped-at-*.ckpt")), weights_only=True)["global_step"] > 0
    assert "ruined" not in message
    for words in ("2 of 48 training images", "max_skipped_share 0.03", "check_dataset.py", "exclude", FILE_NAME):
        assert words in message, words
    assert len(listed(tmp_path)) == 2


def test_a_run_stopped_by_broken_files_goes_on_from_its_last_step_once_they_are_replaced(folder, tmp_path):
    def train(**options):
        callbacks = [SkippedImages(), TrainingCheckpoint(str(tmp_path / "saved")), ExactResumption()]
        run = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
        run.fit(OneNumber(), datamodule=data(folder, max_skipped_share=0.03), **options)
        return run.global_step

    with pytest.raises(TrainingStopped, match=r"step_\d+\.ckpt; --ckpt_path last continues from it") as caught:
        train()
    stopped = int(re.search(r"stopped at step (\d+)", str(caught.value))[1])
    newest = newest_whole((tmp_path / "saved").glob("*.ckpt"))
    assert torch.load(newest, weights_only=True)["global_step"] == stopped
    for index in BROKEN:
        shutil.copy(folder / "train/01.png", folder / f"train/{index:02d}.png")
    assert train(ckpt_path=newest) == stopped + 6  # other files are other data: the next epoch of six steps begins
    assert not (tmp_path / f"csv/version_1/{FILE_NAME}").exists()


def test_a_share_of_zero_fails_at_the_first(folder, tmp_path):
    with pytest.raises(UnreadableImageError, match=r"cannot read image \d+ at .*truncated.*check_dataset"):
        trainer(tmp_path).fit(OneNumber(), datamodule=data(folder, max_skipped_share=0.0))


def test_without_the_callback_that_counts_nothing_is_skipped(folder, tmp_path):
    with pytest.raises(UnreadableImageError, match="cannot read image"):
        trainer(tmp_path, callbacks=[]).fit(OneNumber(), datamodule=data(folder))


def test_a_file_that_vanishes_while_training_is_skipped_and_counted(folder, tmp_path):
    class Vanish(OneNumber):
        def on_train_epoch_end(self):
            (folder / "train/30.png").unlink(missing_ok=True)

    trainer(tmp_path).fit(Vanish(), datamodule=data(folder))
    assert [str(folder / "train/30.png"), "the file is gone"] in listed(tmp_path)
    assert counts(tmp_path)[-1][1] == len(BROKEN) + 1


def test_validation_refuses_and_names_the_file(folder, tmp_path):
    (folder / "val/02.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=r"cannot read image 2 at '.*val/02\.png': empty file"):
        trainer(tmp_path).fit(OneNumber(), datamodule=data(folder))
