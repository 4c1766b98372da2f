"""The masked generator: schedules against the goldens, what the model sees, sampling, inpainting."""

import pytest
import torch
from generator_goldens import GOLDENS

from open_magvit2.generators import masking
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.generators.masking import MaskedSampling, sample_masked, training_mask

SMALL = {"bits": (3, 2), "grid": (3, 4), "num_classes": 5, "width": 32, "num_heads": 2, "hidden": 48, "num_blocks": 2}


def small(**changes) -> MaskedGenerator:
    torch.manual_seed(0)
    model = MaskedGenerator(**(SMALL | changes)).double().eval().requires_grad_(False)
    for head in model.heads:
        torch.nn.init.normal_(head.weight)
    return model


def tokens(batch: int = 2) -> torch.Tensor:
    return torch.stack([torch.randint(0, size, (batch, 12)) for size in (8, 4)], dim=-1)


@pytest.mark.parametrize("name", ["arccos_12", "arccos_64", "cosine_12", "cosine_64"])
def test_numbers_of_masked_tokens_are_the_reference_s(name):
    schedule, steps = name.split("_")
    settings, now, found = MaskedSampling(num_steps=int(steps), schedule=schedule), 512, []
    for step in range(int(steps)):
        now = settings.num_masked(512, step, now)
        found.append(now)
    assert found == GOLDENS["masked_generation_schedules"][name]


def test_guidance_grows_as_the_reference_s():
    settings = MaskedSampling(num_steps=64, guidance=7.1, power=3.0)
    found = [round(settings.scale(step), 6) for step in (0, 16, 32, 48, 63)]
    expected = GOLDENS["masked_generation_schedules"]["guidance_7.1_pow3_steps_0_16_32_48_63"]
    assert found == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize("inputs", ["bits", "embeddings"])
def test_masked_values_are_not_seen_and_all_others_are(inputs):
    model, labels = small(inputs=inputs), torch.tensor([0, 3])
    sub_tokens, mask = tokens(), torch.rand(2, 12, 2) < 0.5
    expected = model(sub_tokens, mask, labels)
    hidden = torch.where(mask, tokens(), sub_tokens)
    assert all(torch.equal(a, b) for a, b in zip(model(hidden, mask, labels), expected, strict=True))
    position, group = (~mask[0]).nonzero()[0].tolist()
    seen = sub_tokens.clone()
    seen[0, position, group] ^= 1
    assert all(not torch.equal(a[0], b[0]) for a, b in zip(model(seen, mask, labels), expected, strict=True))
    other_class = model(sub_tokens, mask, torch.tensor([1, 3]))
    assert not torch.equal(other_class[0][0], expected[0][0])
    assert torch.equal(other_class[0][1], expected[0][1])


@pytest.mark.parametrize(("schedule", "mean"), [("arccos", 2 / torch.pi), ("cosine", 2 / torch.pi)])
def test_training_masks_have_the_schedule_s_mean_and_mask_groups_alone(schedule, mean):
    mask = training_mask((4000, 16, 2), schedule, torch.Generator().manual_seed(0))
    share = mask.double().mean(dim=(1, 2))
    assert share.mean().item() == pytest.approx(mean, abs=0.02)
    assert bool((mask[..., 0] != mask[..., 1]).any())


SETTINGS = MaskedSampling(num_steps=6, guidance=3.0, power=1.0, temperature=2.0)


def test_guidance_is_computed_in_float32():
    """The scaled difference of two logits in 16 bits would be rounded to a few digits."""
    model, labels = small().to(torch.bfloat16).eval(), torch.tensor([1, 2])
    sub_tokens, is_masked = tokens(), torch.ones_like(tokens(), dtype=torch.bool)
    found = masking._guided(model, sub_tokens, is_masked, labels, 7.1)
    null = torch.full_like(labels, model.null_class)
    with torch.no_grad():
        logits = model(sub_tokens.repeat(2, 1, 1), is_masked.repeat(2, 1, 1), torch.cat([labels, null]))
    for group, values in enumerate(logits):
        conditional, unconditional = values.double().chunk(2)
        expected = conditional + 7.1 * (conditional - unconditional)
        assert (found[group] - expected).abs().max() < 1e-5 * expected.abs().max()  # 1e-3 in 16 bits


def test_the_same_images_come_whatever_the_batch():
    model, labels, seeds = small(), torch.tensor([0, 4, 2]), [10, 11, 12]
    together = sample_masked(model, labels, seeds, SETTINGS)
    assert together.shape == (3, 3, 4)
    alone = [sample_masked(model, labels[i : i + 1], seeds[i : i + 1], SETTINGS) for i in range(3)]
    assert torch.equal(torch.cat(alone), together)


def test_known_tokens_stay_and_all_known_come_back():
    model, labels = small(), torch.tensor([0, 4])
    indices = torch.randint(0, 32, (2, 3, 4))
    everything = torch.ones(2, 3, 4, dtype=torch.bool)
    assert torch.equal(sample_masked(model, labels, [0, 1], SETTINGS, (indices, everything)), indices)
    half = everything.clone()
    half[:, :, 2:] = False
    found = sample_masked(model, labels, [0, 1], SETTINGS, (indices, half))
    assert torch.equal(found[half], indices[half])
    assert not torch.equal(found[~half], indices[~half])


def test_known_tokens_stay_at_a_temperature_whose_noise_overflows():
    model, labels, indices = small(), torch.tensor([0] * 8), torch.randint(0, 32, (8, 3, 4))
    known = torch.zeros(8, 3, 4, dtype=torch.bool)
    known[:, :, 2:] = True
    settings = MaskedSampling(num_steps=6, temperature=1.7e308)
    found = sample_masked(model, labels, list(range(8)), settings, (indices, known))
    assert torch.equal(found[known], indices[known])


@pytest.mark.parametrize("steps", [1, 2, 24, 40])
def test_any_number_of_steps(steps):
    found = sample_masked(small(), torch.tensor([1]), [0], MaskedSampling(num_steps=steps))
    assert found.min() >= 0
    assert found.max() < 32


def test_the_published_size():
    with torch.device("meta"):
        model = MaskedGenerator()
    assert 300e6 < sum(p.numel() for p in model.parameters()) < 320e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: sample_masked(m, torch.tensor([9]), [0]), "class 9 is outside the table"),
        (lambda m: sample_masked(m, torch.tensor([0]), [0, 1]), "2 seeds for 1 labels"),
        (
            lambda m: sample_masked(
                m, torch.tensor([0]), [0], None, (torch.zeros(1, 4, 4).long(), torch.ones(1, 3, 4) > 0)
            ),
            r"known tokens \(1, 3, 4\), got \(1, 4, 4\)",
        ),
        (lambda m: m(torch.zeros(1, 12, 3).long(), torch.ones(1, 12, 3) > 0, torch.tensor([0])), r"\(1, 12, 2\)"),
        (lambda m: MaskedSampling(num_steps=0), "num_steps must be at least 1"),
        (lambda m: MaskedSampling(schedule="linear"), "schedule must be arccos or cosine"),
        (lambda m: MaskedGenerator(inputs="pixels"), "inputs must be 'bits' or 'embeddings'"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small())
