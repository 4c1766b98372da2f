"""The section on tokens: bfloat16 is bfloat16, and its effects are those of a tokenizer whose errors are known."""

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest
import torch
from known_costs import show_times
from PIL import Image
from small_checkpoint import save_small_checkpoint
from torch import Tensor

from open_magvit2.benchmark import models, tokenizing, tokenizing_files
from open_magvit2.benchmark.settings import Settings

SETTINGS = Settings(torch.device("cpu"), full=False, repeats=1)
TOY = models.Case("toy", (1, 2), image_size=32, channels=32, num_bits=8)
GREY = 128


class KnownTokenizer:
    """Sixteen tokens an image; under bfloat16 autocast the first is another one, and grey comes back wrong.

    Of right tokens grey is one step of 255 off, in bfloat16 two, of wrong tokens in bfloat16 four.
    """

    codebook_size, downsampling = 64, 32

    def __init__(self) -> None:
        self.runs: Counter[tuple[str, str]] = Counter()  # by work and precision

    def tokenize(self, image: Tensor) -> Tensor:
        precision = self._precision("tokenize")
        indices = torch.zeros((len(image), 4, 4), dtype=torch.int64)
        indices[:, 0, 0] = precision == "bf16"
        return indices

    def detokenize(self, indices: Tensor) -> Tensor:
        precision = self._precision("detokenize")
        steps = {("fp32", 0): 1, ("bf16", 0): 2, ("bf16", 1): 4}
        values = [(GREY + steps[precision, int(index)]) / 127.5 - 1 for index in indices[:, 0, 0]]
        return torch.tensor(values)[:, None, None, None].expand(-1, 3, 128, 128)

    def _precision(self, work: str) -> str:
        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        precision = "bf16" if autocast else "fp32"
        self.runs[work, precision] += 1
        return precision


@pytest.fixture
def known_tokenizer(monkeypatch) -> KnownTokenizer:
    tokenizer = KnownTokenizer()
    monkeypatch.setattr(tokenizing, "load_tokenizer", lambda path, device: tokenizer)
    monkeypatch.setattr(models, "make_tokenizer", lambda case, device: tokenizer)
    return tokenizer


def test_rates_are_images_by_seconds_in_each_precision(known_tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizing, "without_bfloat16_units", lambda device: None)
    seconds = {("tokenize", "fp32"): 0.5, ("detokenize", "fp32"): 1.0}
    seconds |= {("tokenize", "bf16"): 0.25, ("detokenize", "bf16"): 2.0}
    show_times(monkeypatch, tokenizing, seconds)
    rows = {row["work"]: row for row in tokenizing._speed(TOY, 3, SETTINGS)}
    rates = {
        (work, precision): row[f"{precision} [images / CPU s]"]
        for work, row in rows.items()
        for precision in ("fp32", "bf16")
    }
    assert rates == {key: 3 / one for key, one in seconds.items()}
    assert known_tokenizer.runs == dict.fromkeys(seconds, 1) | {("tokenize", "fp32"): 2}  # once for tokens


def test_what_bfloat16_does_is_counted_over_all_photos(known_tokenizer, tmp_path):
    number = 10  # in two batches
    for i in range(number):
        Image.new("RGB", (140, 150), (GREY, GREY, GREY)).save(tmp_path / f"{i}.png")
    (tmp_path / "any.ckpt").touch()
    row = tokenizing._bf16(dataclasses.replace(SETTINGS, images=tmp_path, checkpoint=tmp_path / "any.ckpt"))
    assert (row["photos"], row["codes"]) == (number, 64)
    assert row["tokens changed [%]"] == 100 / 16
    assert row["PSNR fp32 [dB]"] == 48.131  # 20 log10 255
    assert row["bf16 throughout [dB]"] == -12.0412  # 20 log10 of 1/4
    assert row["bf16 decoder alone [dB]"] == -6.0206
    assert known_tokenizer.runs == {
        ("tokenize", "fp32"): 2,
        ("tokenize", "bf16"): 2,
        ("detokenize", "fp32"): 2,
        ("detokenize", "bf16"): 4,
    }


def test_a_real_checkpoint_on_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "SMALL", TOY)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.effect_noise((140, 150), 60 + number).convert("RGB").save(folder / f"{number}.png")
    checkpoint = save_small_checkpoint(tmp_path / "small.ckpt")
    with_photos = dataclasses.replace(SETTINGS, images=folder, checkpoint=checkpoint)
    *speed, to_shards, to_files, effect = tokenizing.measure(with_photos)
    assert [row["work"] for row in speed] == ["tokenize", "detokenize"]
    for row in (to_shards, to_files):
        assert row["images"] == 2
        assert all(
            row[f"images / {clock} s{kind}"] > 0 for clock in ("CPU", "wall") for kind in ("", " without networks")
        )
    assert to_files["images / CPU s"] < to_files["images / CPU s without networks"]
    assert (effect["photos"], effect["codes"]) == (3, 64)
    assert effect["tokens changed [%]"] < 20
    assert abs(effect["bf16 decoder alone [dB]"]) < 0.5


def test_rates_from_files_to_files_leave_out_the_first_calls(monkeypatch):
    cold, warm = (100.0, 100.0), (4.0, 8.0)  # CPU and wall
    monkeypatch.setattr(tokenizing_files, "_clocked", lambda run, seconds: seconds.append(warm if seconds else cold))
    for row in tokenizing_files.measure(TOY, dataclasses.replace(SETTINGS, repeats=3)):
        for kind in ("", " without networks"):
            assert (row[f"images / CPU s{kind}"], row[f"images / wall s{kind}"]) == (0.5, 0.25)


def test_the_cpu_seconds_of_a_command_are_those_of_its_loading_processes_as_well():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    seconds = []
    tokenizing_files._clocked(lambda: subprocess.run([sys.executable, "-S", "-c", burn], check=True), seconds)
    ((computed, wall),) = seconds
    assert computed >= 0.3
    assert wall >= 0.3
