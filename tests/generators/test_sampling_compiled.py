"""The compiled one-token step: the same tokens as the plain loop, whatever the settings and the number of images."""

import pytest
import torch
from test_autoregressive import small

from open_magvit2.generators.compiled import CompiledSampler
from open_magvit2.generators.drawing import NotFiniteError, SubTokenSampling
from open_magvit2.generators.sampling import Sampling
from open_magvit2.protocols import Generator

LABELS, SEEDS = torch.tensor([0, 4, 2, 2, 1]), [1, 2, 3, 4, 5]
FILTERED = Sampling([SubTokenSampling(3.0, 1.1, 6, 0.9), SubTokenSampling(1.5, 0.9)], "power_cosine")


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test sees another's graphs or settings."""
    with torch._dynamo.config.patch(recompile_limit=8):
        yield
    torch._dynamo.reset()


@pytest.mark.long
@pytest.mark.parametrize("settings", [None, Sampling(greedy=True), FILTERED])
def test_it_makes_the_tokens_of_the_plain_loop(settings):
    model = small()
    made = CompiledSampler(model, 3, "aot_eager")
    assert isinstance(made, Generator)
    with torch.inference_mode():
        found = made.generate(LABELS, SEEDS, settings)
    assert torch.equal(found, model.generate(LABELS, SEEDS, settings))
    assert torch.equal(made.generate(LABELS[:2], SEEDS[:2], settings), found[:2])


@pytest.mark.long
def test_a_sweep_over_guidance_compiles_once():
    model, frames = small(), []

    def counting(graph, inputs):
        frames.append(len(inputs))
        return graph.forward

    made = CompiledSampler(model, 5, counting)
    for scale in (1.5, 2.0, 4.0):
        settings = Sampling([SubTokenSampling(guidance=scale)])
        assert torch.equal(made.generate(LABELS, SEEDS, settings), model.generate(LABELS, SEEDS, settings))
    assert len(frames) == 1  # no graph for a position, a scale or a batch
    made.generate(LABELS, SEEDS, Sampling())
    assert len(frames) == 2  # half the rows


def test_a_step_over_the_whole_cache_equals_one_over_its_filled_part():
    model, labels = small(), torch.tensor([0, 4])
    sub_tokens = torch.stack([torch.randint(0, size, (2, 12)) for size in model.factorization.sizes], dim=-1)
    expected = model.context(model.embed(sub_tokens, labels))
    cache = model.make_caches(2)[0]
    for position, features in enumerate(model.embed(sub_tokens, labels).split(1, dim=1)):
        found = model.context(features, cache, torch.tensor([position]))
        assert (found[:, 0] - expected[:, position]).abs().max() < 1e-10


@pytest.mark.slow
def test_inductor_makes_the_same_tokens():
    model = small()
    made = CompiledSampler(model, 3)
    assert torch.equal(made.generate(LABELS, SEEDS, FILTERED), model.generate(LABELS, SEEDS, FILTERED))


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        CompiledSampler(small(), 0)


def test_a_batch_after_one_that_was_not_finite():
    """Attention runs over all positions of the caches: nothing of the batch before may be left there."""
    model = small()
    made, expected = CompiledSampler(model, 5, "eager"), model.generate(LABELS, SEEDS)
    weight = model.class_embedding.weight
    before = weight.data.clone()
    weight.data.fill_(torch.nan)
    with pytest.raises(NotFiniteError):
        made.generate(LABELS, SEEDS)
    weight.data.copy_(before)
    assert torch.equal(made.generate(LABELS, SEEDS), expected)
