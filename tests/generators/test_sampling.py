"""Sampling: the reference's greedy tokens, filters against plain formulas, seeds, guidance."""

import math

import pytest
import torch
from generator_goldens import GOLDENS, generator, hash_of_indices, tokens_and_labels
from test_autoregressive import small

from open_magvit2.generators.drawing import Streams, SubTokenSampling, draw, filtered
from open_magvit2.generators.sampling import Sampling, sample

GREEDY = [("greedy_unguided", (1.0, 1.0)), ("greedy_cfg_2_2", (2.0, 2.0)), ("greedy_cfg_1.9_4", (1.9, 4.0))]
NAMES = ["om2_ar_tiny", "om2_ar_tiny_9_9"] + [
    pytest.param(f"om2_ar_{size}", marks=pytest.mark.slow) for size in ("B", "L")
]


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_the_reference_s(name):
    model, labels = generator(name), tokens_and_labels(name)[1]
    for key, scales in GREEDY:
        golden = GOLDENS[name][key]
        settings = Sampling([SubTokenSampling(guidance=scale) for scale in scales], greedy=True)
        indices = sample(model, labels, [0] * len(labels), settings, golden["steps"]).flatten(1)
        sub_tokens = model.factorization.split(indices)
        for group in range(2):
            assert sub_tokens[..., group].tolist() == golden[f"sub_token_{group}"], key
        assert hash_of_indices(indices) == golden["indices_sha256"], key


SETTINGS = Sampling([SubTokenSampling(3.0, 1.1, 6, 0.9), SubTokenSampling(1.5, 0.9)])


def test_the_same_images_come_whatever_the_batch():
    model, labels, seeds = small(), torch.tensor([0, 4, 2, 2, 1, 3, 0]), [10, 11, 12, 13, 14, 15, 16]
    together = sample(model, labels, seeds, SETTINGS)
    assert together.shape == (7, 3, 4)
    alone = [sample(model, labels[i : i + 1], seeds[i : i + 1], SETTINGS) for i in range(7)]
    assert torch.equal(torch.cat(alone), together)
    order = [3, 0, 6, 1, 5, 2, 4]
    assert torch.equal(sample(model, labels[order], [seeds[i] for i in order], SETTINGS), together[order])
    assert not torch.equal(together[2], together[3])  # one class, two seeds


def test_a_scale_of_1_is_no_guidance_and_costs_half(monkeypatch):
    model, labels = small(), torch.tensor([1, 2])
    batches = []
    context = model.context
    monkeypatch.setattr(
        model, "context", lambda features, *rest: batches.append(len(features)) or context(features, *rest)
    )
    plain = sample(model, labels, [1, 2], Sampling([SubTokenSampling(guidance=1.0)]))
    assert set(batches) == {2}
    batches.clear()
    one_guided = sample(
        model, labels, [1, 2], Sampling([SubTokenSampling(guidance=1.0), SubTokenSampling(guidance=2.0)])
    )
    assert set(batches) == {4}
    assert one_guided.shape == plain.shape
    nearly = sample(model, labels, [1, 2], Sampling([SubTokenSampling(guidance=1.0 + 1e-9)]))
    assert torch.equal(nearly, plain)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [5.0, 5.0, 5.0]),
        ("linear", [1.0, 2.0, 3.0]),
        ("cosine", [1.0, 1 + 2 * (1 - math.cos(math.pi / 4)), 3.0]),
        ("power_cosine", [1.0, 1 + 2 * (1 - math.cos(math.pi / 16)), 1 + 2 * (1 - math.cos(math.pi / 4))]),
    ],
)
def test_guidance_schedules(schedule, expected):
    settings = Sampling(schedule=schedule, power=2.0)
    assert [settings.scale(5.0, position, 8) for position in (0, 2, 4)] == pytest.approx(expected, abs=1e-12)


def test_top_k_keeps_ties_and_top_p_the_first_that_exceeds():
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1]], dtype=torch.float64))
    assert filtered(logits, SubTokenSampling(top_k=3))[0].tolist() == pytest.approx([0.4, 0.3, 0.1, 0.1, 0.1])
    assert filtered(logits, SubTokenSampling(top_k=2))[0].tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0, 0])
    assert filtered(logits, SubTokenSampling(top_p=0.5))[0].tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0, 0])
    assert filtered(logits, SubTokenSampling(top_p=0.3))[0].tolist() == pytest.approx([1, 0, 0, 0, 0])
    hot = filtered(logits, SubTokenSampling(temperature=2.0))[0]
    root = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1], dtype=torch.float64).sqrt()
    assert torch.allclose(hot, root / root.sum(), rtol=0, atol=1e-12)


def test_draws_follow_the_probabilities_and_never_take_an_excluded_value():
    probabilities = torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0])
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = draw(probabilities.expand(10_000, -1), uniform)
    assert drawn.bincount(minlength=5).tolist() == [5000, 0, 2500, 2500, 0]
    ends = draw(probabilities.expand(2, -1), torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [0, 3]


def test_random_numbers_belong_to_the_seed():
    streams, alone = Streams([7, 8, 8 + 2**32]), Streams([8])
    for _ in range(2):
        numbers = streams.uniform(4, 2)
        assert torch.equal(alone.uniform(4, 2)[0], numbers[1])
        assert len({tuple(image.flatten().tolist()) for image in numbers}) == 3  # the whole seed counts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sampling_in_any_precision(dtype):
    indices = sample(small().to(dtype), torch.tensor([0, 1]), [0, 1], SETTINGS)
    assert indices.min() >= 0
    assert indices.max() < 32


def test_sampling_leaves_the_model_as_it_was():
    model = small()
    names = set(model.state_dict())
    sample(model, torch.tensor([0]), [0])
    assert set(model.state_dict()) == names
    model(torch.zeros(1, 12, 2, dtype=torch.int64), torch.tensor([0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": torch.tensor([9])}, "class 9 is outside the table: expected 0 to 4"),
        ({"seeds": [1, 2]}, "2 seeds for 1 labels"),
        ({"num_tokens": 13}, "num_tokens must be 1 to 12, the grid's, got 13"),
        ({"settings": Sampling([SubTokenSampling()] * 3)}, "expected 1 or 2 sub-token settings, got 3"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(small(), **({"labels": torch.tensor([0]), "seeds": [0]} | arguments))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubTokenSampling(temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: SubTokenSampling(top_k=-1), "top_k must be at least 0, got -1"),
        (lambda: SubTokenSampling(guidance=-1.0), "guidance must be at least 0"),
        (lambda: Sampling(schedule="exponential"), "got 'exponential'"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
