"""The comparison of quantizers: equal bits, the same networks, every result in the file as soon as it is there."""

import json
import sys

import pytest
import torch
from commands import ROOT

from benchmarks import quantizers
from open_magvit2.data.sources.synthetic import SyntheticImages


@pytest.mark.parametrize("name", quantizers.QUANTIZERS)
def test_every_quantizer_has_the_same_bits(name):
    quantizer = quantizers.QUANTIZERS[name]()
    assert quantizer.codebook_size ** getattr(quantizer, "indices_per_position", 1) == 2**quantizers.NUM_BITS


def test_the_indices_of_residual_levels_are_counted_together():
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    how = quantizers.Training(steps=1, batch=2)
    tokenizer, _ = quantizers.train(quantizers.QUANTIZERS["residual LFQ 2x5"], pixels, 0, how)
    figures = quantizers.measure(tokenizer, pixels, batch=2)
    pairs = {tuple(pair) for pair in tokenizer.tokenize(pixels).flatten(0, -2).tolist()}
    assert figures["codebook_utilization"] * 2**quantizers.NUM_BITS == len(pairs)


def test_the_seed_decides_the_training():
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    how = quantizers.Training(steps=2, batch=2)
    make = quantizers.QUANTIZERS["LFQ"]
    first, again, other = (quantizers.train(make, pixels, seed, how)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_the_command_writes_every_measurement(tmp_path, monkeypatch):
    drawn = SyntheticImages(6, 24, split="train")
    for index in range(6):
        folder = tmp_path / ("train" if index < 4 else "val")
        folder.mkdir(exist_ok=True)
        drawn[index].image.save(folder / f"{index}.png")
    command = ["quantizers", "--images", tmp_path / "train"]
    command += ["--held-out", tmp_path / "val", "--output", tmp_path / "made" / "q.json"]
    command += ["--seeds", "1", "--steps", "1", "--batch", "2", "--image-size", "16"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    quantizers.main()
    content = json.loads((tmp_path / "made" / "q.json").read_text())
    assert [row["quantizer"] for row in content["rows"]] == list(quantizers.QUANTIZERS)
    assert content["training"]["steps"] == 1
    assert all(row["psnr_image"] > 0 and row["cpu_seconds_a_step"] > 0 for row in content["rows"])


def test_the_published_measurements_name_these_quantizers():
    content = json.loads((ROOT / "docs" / "quantizers" / "measurements.json").read_text())
    names = {row[0] for row in content["600_steps"]}
    assert names == set(quantizers.QUANTIZERS)
    page = (ROOT / "docs" / "quantizers.md").read_text()
    assert all(f"| {name} |" in page for name in names)
