"""The temperature of Gumbel-softmax follows a schedule."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import ROOT

from open_magvit2.quantizers.gumbel import GumbelQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.training.annealing import TemperatureAnnealing
from open_magvit2.training.cli import main
from open_magvit2.training.schedules import WarmupCosine


def module(quantizer):
    return SimpleNamespace(tokenizer=SimpleNamespace(quantizer=quantizer), global_step=0)


def train(folder: Path, *flags: object) -> float:
    """The temperature at the end of a training with the callback as docs/quantizers.md writes it, over 4 steps."""
    text = (ROOT / "docs/quantizers.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (folder / "annealing.yaml").write_text(text.replace("150000", "4"))
    configs = [ROOT / "configs/image_tokenizer" / name for name in ("base.yaml", "debug.yaml")]
    words = [word for file in (*configs, folder / "annealing.yaml") for word in ("--config", file)]
    quantizer = "--model.init_args.tokenizer.init_args.quantizer"
    words += [quantizer, "open_magvit2.quantizers.gumbel.GumbelQuantizer", f"{quantizer}.codebook_size", 64]
    words += [f"{quantizer}.latent_channels", 6, f"{quantizer}.temperature", 2.0]
    words += ["--trainer.logger.init_args.save_dir", folder, *flags]
    return main(["fit", *map(str, words)]).model.tokenizer.quantizer.temperature


@pytest.mark.long
def test_the_temperature_is_the_configured_one_times_the_schedule_and_the_same_in_a_continued_training(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["train.py"])
    half_way = 2.0 * (1 + 0.0625) / 2  # down the cosine
    assert train(tmp_path, "--trainer.max_steps", 3) == pytest.approx(half_way)
    continued = train(tmp_path, "--trainer.max_steps", 5, "--ckpt_path", "last")
    assert continued == pytest.approx(2.0 * 0.0625)


def test_another_quantizer_and_a_temperature_of_zero_are_refused():
    with pytest.raises(ValueError, match="GumbelQuantizer, got .*LookupFreeQuantizer"):
        TemperatureAnnealing(WarmupCosine(2)).on_fit_start(None, module(LookupFreeQuantizer(4)))
    training, annealing = module(GumbelQuantizer(4, 2)), TemperatureAnnealing(WarmupCosine(2))
    annealing.on_fit_start(None, training)
    training.global_step = 2
    with pytest.raises(ValueError, match="above 0, got 0.0 at step 2"):
        annealing.on_train_batch_start(None, training, None, 0)
