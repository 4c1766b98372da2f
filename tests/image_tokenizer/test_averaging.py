"""Averages of the weights: their formula, their precision, what validates on them and what a checkpoint keeps."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from small_training import data, module, parameters, trainer

from open_magvit2 import load_tokenizer
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint


class RecordWeights(Callback):
    """Keeps the raw weights after every step, and those that validation ran on."""

    def __init__(self) -> None:
        self.raw, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.raw.append(parameters(pl_module.tokenizer))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append(parameters(pl_module.tokenizer))


@pytest.mark.parametrize(("warmup", "decays"), [(True, [2 / 11, 3 / 12, 0.3, 0.3]), (False, [0.3] * 4)])
def test_moving_averages_follow_their_formula_are_validated_and_saved(tmp_path, warmup, decays):
    record, training = RecordWeights(), module()
    average = parameters(training.tokenizer)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=4)
    callbacks = [record, ExponentialMovingAverage(decay=0.3, warmup=warmup), checkpoint]
    options = {"max_steps": 4, "val_check_interval": 4, "callbacks": callbacks, "enable_checkpointing": True}
    trainer(tmp_path, **options).fit(training, data())
    for decay, raw in zip(decays, record.raw, strict=True):
        average = decay * average + (1 - decay) * raw
    assert torch.allclose(record.validated[0], average, atol=1e-6)
    file = tmp_path / "last.ckpt"
    assert torch.allclose(parameters(load_tokenizer(file)), average, atol=1e-6)
    assert torch.equal(parameters(load_tokenizer(file, weights="raw")), record.raw[-1])


@pytest.mark.parametrize(("raw_batches", "number"), [(None, 7), (1, 4)])
def test_validation_measures_the_averages_and_the_raw_weights_on_the_same_images(tmp_path, raw_batches, number):
    averaging = ExponentialMovingAverage(decay=0.9, warmup=False, raw_batches=raw_batches)
    saving = TrainingCheckpoint(dirpath=str(tmp_path))
    run = trainer(tmp_path, callbacks=[averaging, saving], enable_checkpointing=True, precision="64-true")
    run.fit(module(), data())
    batches = list(data().val_dataloader())
    pixels = torch.cat([batch["image"] for batch in batches])[:number]
    image = pixels.double() / 127.5 - 1
    figures = {}
    for weights in ("ema", "raw"):
        made, _ = load_tokenizer(tmp_path / "last.ckpt", weights=weights).double().reconstruct(image)
        error = (made.clamp(-1, 1) - image).square().mean(dim=(1, 2, 3))
        figures[weights] = float((10 * (4 / error).log10()).mean())
        assert float(run.callback_metrics[f"validation/psnr_{weights}"]) == pytest.approx(figures[weights], abs=1e-4)
    assert figures["ema"] != pytest.approx(figures["raw"], abs=1e-3)


@pytest.mark.parametrize(("options", "warns"), [({"warmup": False}, True), ({}, False), ({"decay": 0.01}, False)])
def test_a_validation_of_averages_that_are_mostly_initial_weights_warns(tmp_path, caplog, options, warns):
    run = trainer(tmp_path, callbacks=[ExponentialMovingAverage(**options)], max_steps=8, val_check_interval=8)
    run.fit(module(), data())
    said = [record.getMessage() for record in caplog.records if "too few updates" in record.getMessage()]
    assert len(said) == warns
    assert all("99 % of the averages" in text and "ema.warmup true" in text for text in said)


def test_training_that_ends_between_validations_is_saved_with_both_weights(tmp_path):
    record = RecordWeights()
    checkpoint = TrainingCheckpoint(dirpath=str(tmp_path), monitor="validation/psnr_image")
    callbacks = [record, ExponentialMovingAverage(decay=0.5), checkpoint]
    options = {"max_steps": 5, "val_check_interval": 4, "callbacks": callbacks, "enable_checkpointing": True}
    trainer(tmp_path, **options).fit(module(metrics=[PSNR()]), data())
    file = tmp_path / "last.ckpt"
    assert torch.load(file, weights_only=True)["global_step"] == 5
    assert torch.equal(parameters(load_tokenizer(file, weights="raw")), record.raw[4])
    assert not torch.allclose(parameters(load_tokenizer(file)), record.raw[4])
    assert load_tokenizer(file).checkpoint_facts["train_image_size"] == data().image_size == 32


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("64-true", 1e-14)])
def test_averaging_can_start_later_and_has_the_precision_of_the_weights(tmp_path, precision, tolerance):
    record = RecordWeights()
    callbacks = [record, ExponentialMovingAverage(decay=0.7, start_step=2, warmup=False)]
    run = trainer(tmp_path, max_steps=4, val_check_interval=4, callbacks=callbacks, precision=precision)
    run.fit(module(), data())
    average = record.raw[1]  # after 2 steps still a copy
    for raw in record.raw[2:]:
        average = 0.7 * average + 0.3 * raw
    assert torch.allclose(record.validated[0], average, rtol=0, atol=tolerance)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_averages_too_short_to_move_are_refused(tmp_path, precision):
    run = trainer(tmp_path, precision=precision, callbacks=[ExponentialMovingAverage(decay=0.9)])
    with pytest.raises(
        ValueError, match=rf"{precision} keeps weights in torch.*decay 0.9: they stand still. Use bf16-mixed"
    ):
        run.fit(module(), data())


def test_a_checkpoint_without_averages_is_loaded_raw_only(tmp_path):
    training = module()
    run = trainer(tmp_path)
    run.fit(training, data())
    run.save_checkpoint(tmp_path / "raw.ckpt")
    assert torch.equal(parameters(load_tokenizer(tmp_path / "raw.ckpt", "raw")), parameters(training.tokenizer))
    with pytest.raises(ValueError, match=r"no EMA weights.*weights='raw'"):
        load_tokenizer(tmp_path / "raw.ckpt")
