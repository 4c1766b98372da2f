"""What sections say of known costs: rates, ratios, exponents and batches that can be worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from known_costs import show_peaks, show_times
from torch import nn

from open_magvit2.benchmark import (
    evaluating,
    growth,
    largest_batch,
    models,
    scaling,
    training_step,
    variants,
)
from open_magvit2.benchmark.instant import InstantTokenizer
from open_magvit2.benchmark.settings import Settings
from open_magvit2.benchmark.variants import OURS

CPU = torch.device("cpu")
SETTINGS = Settings(CPU, full=False, repeats=1)
TOY = models.Case("toy", (1, 2), image_size=32, channels=32, num_bits=8)
TOKENS = SimpleNamespace(codebook_size=2**TOY.num_bits, downsampling=2)


class FakeTraining:
    """Steps that return how many pixels they were given; 160 MB of trained weights, on no device."""

    def __init__(self) -> None:
        self.network = nn.ParameterList([torch.empty(40_000_000, device="meta")])
        self.optimizers = [SimpleNamespace(param_groups=[{"params": list(self.network)}])]

    def modules(self) -> nn.Module:
        return self.network

    def step(self, images: torch.Tensor, *_) -> int:
        return images.numel() // 3


@pytest.fixture(autouse=True)
def _fake_networks(monkeypatch):
    monkeypatch.setattr(models, "make_ours", lambda case, device, **options: FakeTraining())
    monkeypatch.setattr(models, "make_tokenizer", lambda case, device: InstantTokenizer(TOKENS))


def test_ratios_of_a_whole_step(monkeypatch):
    show_times(monkeypatch, training_step, {"ours": 2.0, "plain": 5.0})
    peaks = iter((3, 12))  # ours, the baseline
    show_peaks(monkeypatch, training_step, lambda result: next(peaks))
    row = training_step._whole(TOY, FakeTraining(), FakeTraining(), 8, SETTINGS)
    expected = {
        "ours [CPU s]": 2,
        "baseline [CPU s]": 5,
        "time ratio": 2.5,
        "ours [images / CPU s]": 4,
        "ours with gradients [MiB]": 4,
        "baseline with gradients [MiB]": 13,
        "memory ratio with gradients": 3.25,
        "ours beyond gradients [MiB]": 3,
        "baseline beyond gradients [MiB]": 12,
        "memory ratio beyond gradients": 4,
    }
    assert {name: row[name] for name in expected} == expected


def test_exponents_are_those_of_pixels_and_images(monkeypatch):
    monkeypatch.setattr(growth, "_SMALL", {"resolution": (32, 64, 96), "batch": (1, 4, 6)})
    show_times(monkeypatch, growth, lambda pixels: pixels**2)
    show_peaks(monkeypatch, growth, lambda pixels: pixels / 2**10)
    rows = growth.measure(SETTINGS)
    assert [row.get("resolution", row.get("batch")) for row in rows] == [32, 64, 96, 1, 4, 6]
    assert [row["MiB beyond gradients"] for row in rows] == [1, 4, 9, 1, 4, 6]
    for number, row in enumerate(rows):
        exponents = [row[f"exponent of {figure}"] for figure in ("CPU s", "MiB beyond gradients")]
        assert exponents == ([None, None] if number in (0, 3) else pytest.approx([2, 1]))


# Resident are weights, gradients, two moments and averages: 5 x 160 MB. In 16 GB, of which 0.92 are usable, 13.92 GB
# are free, in 32 GB 28.64 and in 80 GB 72.8; a step takes half a GB for any batch.
@pytest.mark.parametrize(
    ("gigabytes_an_image", "batches"), [(1.0, (13, 28, 72)), (0.25, (53, 112, 289)), (20.0, (0, 1, 3))]
)
def test_the_largest_batch_is_where_a_line_meets_the_cards_memory(monkeypatch, gigabytes_an_image, batches):
    monkeypatch.setattr(largest_batch, "_VARIANTS", (OURS,))
    monkeypatch.setattr(models, "B_128", TOY)
    always = 0.5  # GB
    show_peaks(
        monkeypatch, variants, lambda pixels: (always + gigabytes_an_image * pixels / TOY.image_size**2) * 1e9 / 2**20
    )
    (row,) = largest_batch.measure(SETTINGS)
    assert tuple(row[f"in {card} GB"] for card in (16, 32, 80)) == batches
    assert row["MiB an image"] == pytest.approx(gigabytes_an_image * 1e9 / 2**20)


def test_an_evaluations_rates_are_images_by_seconds(monkeypatch):
    show_times(monkeypatch, evaluating, {"whole": 4.0, "loop": 0.5})
    seen, evaluate = [], evaluating.evaluate

    def counting(tokenizer, loader, *arguments, **options):
        seen.append(sum(len(batch["image"]) for batch in loader))
        return evaluate(tokenizer, loader, *arguments, **options)

    monkeypatch.setattr(evaluating, "evaluate", counting)
    (row,) = evaluating.measure(SETTINGS)
    assert seen == [8, 8]
    assert (row["images / CPU s"], row["images / CPU s without networks"]) == (2, 16)
    assert row["share outside the networks [%]"] == 12.5


def test_ratios_of_scaling(monkeypatch):
    seconds = {1: (1.0, 2.0), 2: (1.25, 2.5)}  # CPU and wall, of a step on 2 images a process
    monkeypatch.setattr(scaling, "_run", lambda world, *_: seconds[world])
    monkeypatch.setattr(scaling.machine, "num_cores", lambda: 2)
    rows = scaling.measure(SETTINGS)
    assert [row["CPU s a step and process"] for row in rows] == [1, 1.25]
    assert [row["images / s (wall)"] for row in rows] == [1, 1.6]
    assert [row["efficiency of the work"] for row in rows] == [1, 0.8]
