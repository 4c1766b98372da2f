"""Every section of the benchmark really measures, at toy size; what can be known beforehand is compared."""

import dataclasses
import importlib

import pytest
import torch

from open_magvit2.benchmark import (
    evaluating,
    flops,
    growth,
    largest_batch,
    models,
    pictures,
    profiling,
    run,
    scaling,
    training_step,
)
from open_magvit2.benchmark.settings import Settings
from open_magvit2.benchmark.variants import OURS, Steps

SETTINGS = Settings(torch.device("cpu"), full=False, repeats=1)
TOY = models.Case("toy", (1, 2), image_size=32, channels=32, num_bits=8)
TOO_LARGE = TOY._replace(name="too large", channels=2**21)  # a convolution's weights have 158 TB: no address space does


@pytest.fixture(autouse=True)
def _toy_size(monkeypatch):
    monkeypatch.setattr(models, "SMALL", TOY)
    monkeypatch.setattr(models, "B_128", TOY)
    monkeypatch.setattr(models, "TINY", TOY)
    monkeypatch.setattr(training_step, "_SMALL_BATCHES", (1,))
    monkeypatch.setattr(training_step, "_SMALL_SPLIT_BATCH", 1)


def test_the_training_step_by_batch_part_and_memory():
    rows = list(training_step.measure(SETTINGS))
    (whole,) = [row for row in rows if row["table"] == "Whole step by batch"]
    parts = {row["part"]: row["ours [CPU s]"] for row in rows if row["table"].startswith("Parts")}
    assert set(parts) == {
        *("encoder", "quantizer", "decoder", "LPIPS", "discriminator", "optimizers", "averaging", "sum of parts")
    }
    total = parts.pop("sum of parts")
    assert total == pytest.approx(sum(parts.values()))
    assert whole["ours with gradients [MiB]"] > whole["ours beyond gradients [MiB]"]
    memory = {row["step"]: row for row in rows if row["table"].startswith("Peak")}
    assert all("beyond gradients" in row["table"] for row in memory.values())
    for row in memory.values():
        named = [value for name, value in row.items() if name.endswith("[MiB]") and name != "total [MiB]"]
        assert sum(named) == pytest.approx(row["total [MiB]"])
    assert memory["ours, recompute activations"]["total [MiB]"] < memory["ours, recompute none"]["total [MiB]"]


def test_the_training_step_at_a_batch_of_ones_choice():
    rows = list(training_step.measure(dataclasses.replace(SETTINGS, batch=3)))
    assert [row["batch"] for row in rows if row["table"] == "Whole step by batch"] == [3]
    assert all("batch 3" in row["table"] for row in rows if row["table"] != "Whole step by batch")


def test_operations_are_those_counted_by_hand(monkeypatch):
    matrices = torch.randn(8, 16, requires_grad=True), torch.randn(16, 4, requires_grad=True)
    forward = 2 * 8 * 16 * 4
    assert flops.count(lambda: matrices[0] @ matrices[1]) == forward
    assert flops.count(lambda: (matrices[0] @ matrices[1]).sum().backward()) == 3 * forward
    monkeypatch.setattr(models, "cases", lambda settings: [TOO_LARGE, TOY])
    failed, *measured = flops.measure(SETTINGS)  # what does not fit takes nothing from the others
    assert (failed["model"], failed["reason"]) == ("too large", "out of memory")
    rows = {row["work"]: row for row in measured}
    step, forward = rows["training step"]["GFLOP an image"], rows["detokenize"]["GFLOP an image"]
    assert step > 3 * (forward + rows["tokenize"]["GFLOP an image"])
    assert rows["detokenize"]["share of the peak [%]"] > 0


def test_a_profile_adds_up_to_the_whole_step():
    rows = list(profiling.measure(SETTINGS))
    assert sum(row["share [%]"] for row in rows) == pytest.approx(100)
    assert any("convolution" in row["operator"] for row in rows)


def test_the_largest_batch_is_marked_as_predicted_and_its_line_is_straight(monkeypatch):
    monkeypatch.setattr(largest_batch, "_VARIANTS", (OURS,))
    (row,) = largest_batch.measure(SETTINGS)
    assert row["table"].startswith("Predicted")
    assert "not measured on a GPU" in row["table"]
    # the line goes on where it was not measured
    steps = Steps(OURS, TOY, "fp32", SETTINGS.device)
    steps.on_batch(1)()
    second, fourth = (steps.peak(steps.on_batch(batch)).beyond_gradients for batch in (2, 4))
    assert row["MiB an image"] * 2**20 == pytest.approx((fourth - second) / 2, rel=0.02)


@pytest.mark.parametrize("section", [profiling, largest_batch])
def test_a_model_that_fits_nowhere_is_a_row(section, monkeypatch):
    monkeypatch.setattr(largest_batch, "_VARIANTS", (OURS,))
    for name in ("SMALL", "B_128"):
        monkeypatch.setattr(models, name, TOO_LARGE)
    (row,) = section.measure(SETTINGS)
    assert (row["model"], row["reason"]) == ("too large", "out of memory")
    stamped = row | {"device": "CPU", "torch": "2", "date": "2025"}
    assert pictures.draw({section.__name__.rpartition(".")[2]: {"rows": [stamped]}}) == {}


def test_growth_is_that_of_the_first_model_chosen(monkeypatch):
    monkeypatch.setattr(models, "PUBLISHED", (TOO_LARGE, TOY))
    monkeypatch.setattr(growth, "_FULL", {"resolution": (32, 64), "batch": (1,)})
    monkeypatch.setattr(growth, "_FULL_SIZE", 32)
    monkeypatch.setattr(growth, "_FULL_BATCH", 1)
    rows = growth.measure(dataclasses.replace(SETTINGS, full=True, models=["toy"]))
    assert [row["table"] for row in rows] == [*(["toy by resolution, batch 1"] * 2), "toy by batch, 32 px"]
    assert rows[1]["MiB beyond gradients"] > rows[0]["MiB beyond gradients"]
    assert 0 < rows[1]["exponent of MiB beyond gradients"] < 1.5


def test_evaluation_of_what_fits(monkeypatch):
    monkeypatch.setattr(models, "cases", lambda settings: [TOO_LARGE, TOY])
    failed, row = evaluating.measure(SETTINGS)
    assert (failed["model"], failed["reason"]) == ("too large", "out of memory")
    assert 0 < row["share outside the networks [%]"] < 100


@pytest.mark.slow
def test_scaling_runs_real_processes(monkeypatch):
    monkeypatch.setattr(scaling.machine, "num_cores", lambda: 2)
    rows = scaling.measure(dataclasses.replace(SETTINGS, repeats=3))
    assert [row["processes"] for row in rows] == [1, 2]
    for row in rows:
        assert row["CPU s a step and process"] > 0
        assert row["images / s (wall)"] > 0


def test_all_sections_can_be_imported_and_have_titles():
    for name in run.SECTIONS:
        module = importlib.import_module(f"open_magvit2.benchmark.{name}")
        assert module.TITLE
        assert callable(module.measure)
