"""Metrics in the validation of a training: the evaluation's own figures; missing network weights stop nothing."""

import gc
import logging
import sys
import weakref
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from small_tokenizers import make_batch, make_pair

from open_magvit2 import load_tokenizer
from open_magvit2.common import weights
from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.sources.synthetic import SyntheticImages
from open_magvit2.evaluation import metrics, validation
from open_magvit2.evaluation.loop import evaluate
from open_magvit2.evaluation.metrics import MetricContext, merged
from open_magvit2.evaluation.validation import ValidationMetrics
from open_magvit2.training.ema import ExponentialMovingAverage

sys.path.append(str(Path(__file__).resolve().parents[1] / "image_tokenizer"))
from small_training import module, trainer


class Figures(pl.Callback):
    """Keeps what a validation logged."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.long
def test_validation_gives_the_figures_of_an_evaluation_of_the_averaged_weights(random_networks, tmp_path):
    data = ImageDataModule(
        SyntheticImages(32, 32),
        SyntheticImages(2, 32, split="validation"),
        32,
        8,
        validation_batch_size=1,
        num_workers=0,
    )
    figures = Figures()
    training = module(discriminator=False, metrics=[ValidationMetrics(["psnr", "ssim", "rfid", "lpips_alex"])])
    fit = trainer(tmp_path, callbacks=[ExponentialMovingAverage(0.5), figures])
    fit.fit(training, data)
    fit.save_checkpoint(tmp_path / "last.ckpt")

    everything = ["psnr", "ssim", "rfid", "lpips_alex", "codebook_usage"]
    for kind, names in (("ema", everything), ("raw", ["psnr"])):
        tokenizer = load_tokenizer(tmp_path / "last.ckpt", weights=kind)
        chosen, absent = metrics.create(names, MetricContext(tokenizer.codebook_size))
        assert not absent
        expected = evaluate(tokenizer, data.val_dataloader(), chosen, progress=False, check="off").metrics
        got = {
            name: figures.logged[f"validation/{name}"] for name in expected if f"validation/{name}" in figures.logged
        }
        assert "psnr_image" in got
        if kind == "ema":
            assert {"ssim_image", "rfid", "lpips_alex", "codebook_utilization"} <= set(got)
        # Lightning keeps what is logged in float32.
        assert (got == pytest.approx({name: expected[name] for name in got}, rel=1e-5)) == (kind == "ema")


def test_missing_weights_are_said_once_and_the_rest_is_computed(random_networks, monkeypatch, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / weights.ALEXNET).symlink_to(random_networks / weights.ALEXNET)
    nowhere = weights.WeightFile(weights.KNOWN[weights.INCEPTION].sha256, (tmp_path / "nowhere").as_uri())
    monkeypatch.setitem(weights.KNOWN, weights.INCEPTION, nowhere)
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with caplog.at_level(logging.WARNING):
        metric = ValidationMetrics(["rfid", "rfid_u8", "lpips_alex"])
        for _ in range(2):
            metric.update(make_batch(*make_pair(2)))
            assert set(metric.compute()) == {"lpips_alex"}
            metric.reset()
    (message,) = [r.getMessage() for r in caplog.records if r.name == validation.__name__]
    assert "without rfid, rfid_u8" in message
    assert message.count(f"Put the file ({nowhere.url}") == 1


def test_without_any_weights_nothing_is_computed(no_networks):
    metric = ValidationMetrics(["rfid", "lpips_alex"])
    metric.update(make_batch(*make_pair(2)))
    assert metric.compute() == {}
    assert set(metric.absent) == {"rfid", "lpips_alex"}


def test_reset_frees_what_was_accumulated(random_networks):
    metric = ValidationMetrics(["rfid", "lpips_alex"])
    metric.update(make_batch(*make_pair(2)))
    moments = metric.metrics["rfid"]._outputs
    assert moments.gaussian().number == 2
    moments._flush()
    state = [weakref.ref(moments._products), weakref.ref(metric.metrics["lpips_alex"]._values[0])]
    metric.reset()
    gc.collect()
    assert [reference() for reference in state] == [None, None]


def test_names_are_those_of_the_command_line():
    metric = ValidationMetrics(["psnr", "codebook_usage"], codebook_size=512)
    metric.update(make_batch(*make_pair(2)))
    assert metric.compute().keys() > {"psnr_image", "codebook_utilization"}
    with pytest.raises(ValueError, match="pnsr; available: "):
        ValidationMetrics(["pnsr"])
    with pytest.raises(ValueError, match="codebook_usage needs codebook_size"):
        ValidationMetrics(["codebook_usage"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_state_follows_the_device(random_networks):
    figures = []
    for device in ("cpu", "cuda"):
        metric = ValidationMetrics(["rfid", "lpips_alex"])
        image, reconstruction = (x.to(device) for x in make_pair(4))
        metric.update(make_batch(image, reconstruction, index=torch.arange(4, device=device)))
        figures.append(metric.compute())
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"psnr": 99.0}, r"metric mine gives \['psnr'\], which another metric gives already"),
        (torch.ones(1), "metric mine gives a Tensor, expected figures by name"),
        ({"both": torch.ones(2)}, "metric mine gives both = tensor.*, expected a number"),
    ],
)
def test_figures_that_are_there_already_or_no_numbers_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        merged({"psnr": 20.0}, more, "mine")
    assert merged({"psnr": 20.0}, {"used": 3, "mine": torch.tensor(0.5)}, "mine") == {
        "psnr": 20,
        "used": 3,
        "mine": 0.5,
    }
