"""The baseline of the generator's training step computes what ours computes, and holds more memory."""

import copy

import pytest
import torch

from benchmarks import generator_step
from benchmarks.baseline_generator import PlainGeneratorTraining
from benchmarks.generator_step import GeneratorCase, OurGeneratorTraining
from benchmarks.mixed_precision import why_not
from benchmarks.settings import Settings, not_measured
from benchmarks.training_step import peak_of_step
from open_magvit2.training.transformer_recomputation import set_transformer_recomputation

CPU = torch.device("cpu")
TINY = GeneratorCase("toy", 128, 2, 1, 2)


def both(dropout: float) -> tuple[OurGeneratorTraining, PlainGeneratorTraining]:
    generator = TINY.generator()
    for head in generator.heads:
        torch.nn.init.normal_(head.weight, std=0.05)
    for module in generator.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return OurGeneratorTraining(generator), PlainGeneratorTraining(copy.deepcopy(generator), class_dropout=dropout)


def test_losses_gradients_and_weights_are_equal():
    ours, plain = both(0.0)
    ours.training.double()
    ours.training.class_dropout = 0.0
    plain.generator.double()
    indices, labels = generator_step.tokens(TINY, 2)
    got, expected = ours.step(indices, labels), plain.step(indices, labels)
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value.item(), rel=1e-9), name
    pairs = zip(ours.training.generator.named_parameters(), plain.generator.parameters(), strict=True)
    for (name, mine), theirs in pairs:
        assert (mine.grad - theirs.grad).norm() < 1e-7 * theirs.grad.norm() + 1e-12, name
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-8), name


def test_memory_of_a_step_by_level_of_recomputation():
    """Counted exactly, at a size that takes seconds."""
    ours, plain = both(0.1)
    indices, labels = generator_step.tokens(TINY, 2)
    functions = {"baseline": lambda: plain.step(indices, labels)}
    for level in generator_step.LEVELS:

        def step(level=level):
            set_transformer_recomputation(ours.training.generator, level)
            ours.step(indices, labels)

        functions[level] = step
    peaks = {}
    for name, function in functions.items():
        function()  # the optimizer then has its state
        peaks[name] = peak_of_step((plain if name == "baseline" else ours).optimizers, function, CPU).num_bytes
    ratios = {name: peaks["baseline"] / peak for name, peak in peaks.items()}
    assert ratios["none"] >= 1.37, ratios  # 1.45; the logits of 2 x 256 tokens are the most of it at this size
    assert ratios["activations"] >= 1.88, ratios  # 1.99
    assert ratios["blocks"] >= 3.25, ratios  # 3.42


def test_the_section_runs(monkeypatch):
    monkeypatch.setattr(generator_step, "SMALL", TINY)
    rows = list(generator_step.measure(Settings(CPU, full=False, repeats=1)))
    steps = ["baseline", *(f"ours, recompute {level}" for level in generator_step.LEVELS)]
    reason = why_not("bf16", CPU)
    assert [row["step"] for row in rows] == steps + ([not_measured(reason)] if reason else steps)
    assert rows[0]["time ratio"] == rows[0]["memory ratio"] == 1.0
    assert rows[-1]["table"] == "toy, 16 x 16 tokens, batch 2, bf16"
