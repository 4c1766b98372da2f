"""A training whose checkpoint names the discriminator as before `Adversary` continues as it did then."""

import csv

import pytest
from commands import ROOT

from open_magvit2.common import checkpoints
from open_magvit2.training.cli import main

CONFIGS = ROOT / "configs" / "image_tokenizer"
FILE = ROOT / "tests" / "fixtures" / "trained_before_injection.ckpt"  # written by commit a373737 at step 4 of 8
# what commit a373737 logs when it continues the same file
EXPECTED = {
    (6, "train/generator/total"): 0.402299,
    (6, "train/discriminator/total"): 1.000867,
    (8, "train/generator/total"): 0.427623,
    (8, "train/discriminator/lecam"): 0.0117265,
    (8, "train/discriminator/total"): 1.002211,
    (8, "train/codebook_utilization"): 0.65625,
    (8, "validation/psnr_image"): 11.60474,
}
TOKENIZER, DATA = "--model.init_args.tokenizer.init_args.", "--data.init_args."
DISCRIMINATOR = "--model.init_args.adversary.init_args.discriminator.init_args."


def test_it_continues_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    words = ["fit", "--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "debug.yaml")]
    words += [TOKENIZER + "encoder.init_args.channels", "4", TOKENIZER + "encoder.init_args.norm_groups", "4"]
    words += [TOKENIZER + "quantizer.init_args.num_bits", "6", DATA + "image_size", "16"]
    words += [DISCRIMINATOR + "channels", "2", DISCRIMINATOR + "num_layers", "1"]
    for split in ("train", "validation"):
        words += [f"{DATA}{split}.init_args.size", "32"]
    words += ["--trainer.logger", "CSVLogger", "--trainer.logger.init_args.save_dir", str(tmp_path)]
    words += ["--ema.warmup", "false"]  # as at that commit
    run = main([*words, "--trainer.enable_model_summary", "false", "--ckpt_path", str(FILE)]).trainer
    assert run.global_step == 8
    logged = {}
    with open(f"{run.log_dir}/metrics.csv") as file:
        for row in csv.DictReader(file):
            logged |= {
                (int(row["step"]), name): float(value) for name, value in row.items() if value and name != "step"
            }
    assert {key: logged[key] for key in EXPECTED} == pytest.approx(EXPECTED, rel=1e-3)
    saved = checkpoints.read(f"{run.log_dir}/checkpoints/last.ckpt")
    names = {name for name in saved["current_model_state"] if not name.startswith("tokenizer.")}
    assert {"adversary.lecam.ema_real", "adversary.discriminator.layers.0.weight"} <= names
    assert not any(name.startswith("discriminator") for name in names)
