"""The bit-wise generator (BAR): what a bit sees, exact sampling bit by bit, training, checkpoints, large codebooks."""

import itertools
import math

import pytest
import torch
from small_generator_training import data, tokens, trainer

from open_magvit2.generators.bitwise import BitwiseGenerator, BitwiseSampling
from open_magvit2.generators.bitwise_training import BitwiseTraining
from open_magvit2.generators.pretrained import load_generator

SIZES = {"num_bits": 6, "grid": (4, 4), "num_classes": 32, "width": 32, "num_heads": 2, "hidden": 48}
SIZES |= {"num_spatial_blocks": 2, "num_head_layers": 2, "head_width": 32, "dropout": 0.0}


def generator(**options) -> BitwiseGenerator:
    torch.manual_seed(0)
    made = BitwiseGenerator(**{**SIZES, **options}).double().eval()
    for parameter in made.parameters():  # some begin at zero
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def inputs(made: BitwiseGenerator):
    bits = made.factorization.split(tokens(2).flatten(1))
    is_masked = torch.rand(bits.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    return bits, is_masked, torch.tensor([4, 9])


def test_a_bit_sees_earlier_tokens_and_known_bits_of_its_own_token():
    made = generator()
    assert made.codebook_size == 64
    bits, is_masked, labels = inputs(made)
    logits = made(bits, is_masked, labels)
    assert logits.shape == (2, 16, 6)
    at = 7
    changed = bits.clone()
    changed[:, at] ^= is_masked[:, at].long()  # masked bits are not read at their own position
    moved = (made(changed, is_masked, labels) - logits).abs().amax(dim=-1) > 1e-12
    assert not moved[:, : at + 1].any()
    assert moved[:, at + 1 :].all()
    changed = bits.clone()
    changed[:, at] ^= (~is_masked[:, at]).long()  # known ones are
    moved = (made(changed, is_masked, labels) - logits).abs().amax(dim=-1) > 1e-12
    assert not moved[:, :at].any()
    assert moved[:, at:].all()


def test_one_bit_a_step_in_random_order_draws_from_the_chain_rule():
    """The frequencies of a token of two bits against the product of the head's conditionals, over both orders."""
    made = generator(num_bits=2, grid=(1, 1))
    number = 20_000
    labels = torch.full((number,), 5)
    drawn = made.generate(labels, range(number), BitwiseSampling(num_steps=2)).flatten()

    def probability(bit: int, known: dict[int, int]) -> float:
        bits = torch.tensor([[[known.get(0, 0), known.get(1, 0)]]])
        is_masked = torch.tensor([[[0 not in known, 1 not in known]]])
        return made(bits, is_masked, torch.tensor([5]))[0, 0, bit].sigmoid().item()

    for first, second in itertools.product((0, 1), repeat=2):
        values = (first, second)
        expected = 0.0
        for start, then in ((0, 1), (1, 0)):
            ones = probability(start, {}), probability(then, {start: values[start]})
            factors = [p if values[bit] else 1 - p for p, bit in zip(ones, (start, then), strict=True)]
            expected += math.prod(factors) / 2
        share = (drawn == first + 2 * second).double().mean().item()
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / number))


@pytest.mark.parametrize(
    "settings", [BitwiseSampling(), BitwiseSampling(6, "confidence", 3.0), BitwiseSampling(greedy=True)]
)
def test_an_image_depends_on_its_seed_and_class_alone(settings):
    made = generator()
    labels, seeds = torch.arange(7), list(range(40, 47))
    together = made.generate(labels, seeds, settings)
    assert together.shape == (7, 4, 4)
    for image in range(7):
        assert torch.equal(
            made.generate(labels[image : image + 1], seeds[image : image + 1], settings), together[image : image + 1]
        )
    if not settings.greedy:
        assert not torch.equal(made.generate(labels, [seed + 1 for seed in seeds], settings), together)


def test_guidance_of_one_is_none_and_more_changes_images():
    made = generator()
    labels, seeds = torch.arange(4), list(range(4))
    plain = made.generate(labels, seeds, BitwiseSampling())
    assert torch.equal(made.generate(labels, seeds, made.make_settings(guidance=1.0)), plain)
    assert not torch.equal(made.generate(labels, seeds, made.make_settings(guidance=4.0)), plain)


@pytest.mark.parametrize("temperature", [1e-44, 1e-300])
def test_a_tiny_temperature_takes_the_more_probable_bits(temperature):
    made, labels, cold = generator().float(), torch.arange(4), BitwiseSampling(temperature=temperature)
    assert torch.equal(
        made.generate(labels, range(4), cold), made.generate(labels, range(4), BitwiseSampling(greedy=True))
    )
    untrained = BitwiseGenerator(**SIZES).eval()  # its logits are 0, which no temperature decides
    plain = untrained.generate(labels, range(4), BitwiseSampling())
    assert torch.equal(untrained.generate(labels, range(4), cold), plain)


def test_2_to_the_40_codes_need_no_table():
    made = BitwiseGenerator(**{**SIZES, "num_bits": 40})
    assert made.codebook_size == 2**40
    assert max(parameter.numel() for parameter in made.parameters()) < 10_000
    indices = made.eval().generate(torch.tensor([0]), [1])
    assert indices.min() >= 0
    assert indices.max() < 2**40


@pytest.mark.long
def test_images_are_learned_by_heart_and_sampled_back():
    torch.manual_seed(0)
    sizes = {**SIZES, "width": 64, "num_heads": 4, "hidden": 128, "head_width": 64}
    training = BitwiseTraining(BitwiseGenerator(**sizes), micro_batch_size=8, learning_rate=3e-3, class_dropout=0.0)
    batch = {"tokens": tokens(8), "label": torch.arange(8), "index": torch.arange(8)}
    optimizer = training.configure_optimizers()
    losses = []
    for step in range(600):
        losses.append(float(training.train_on(training.with_draws(batch, step), optimizer, step=step)["loss"]))
    assert losses[0] == pytest.approx(6 * math.log(2), rel=0.02)
    found = training.generator.eval().generate(torch.arange(8), list(range(8)), BitwiseSampling(6, greedy=True))
    assert torch.equal(found, tokens(8))


def test_a_checkpoint_opens_as_the_generator_that_was_trained(tmp_path):
    torch.manual_seed(0)
    training = BitwiseTraining(BitwiseGenerator(**SIZES), micro_batch_size=4)
    run = trainer(tmp_path, max_steps=2)
    run.fit(training, data(tmp_path))
    run.save_checkpoint(tmp_path / "last.ckpt")
    opened = load_generator(tmp_path / "last.ckpt")
    labels, seeds = torch.arange(3), [0, 1, 2]
    assert torch.equal(opened.generate(labels, seeds), training.generator.eval().generate(labels, seeds))


def test_settings_from_named_options():
    made = generator().make_settings(guidance=[2.0], temperature=0.9, num_steps=3, order="confidence")
    assert made == BitwiseSampling(num_steps=3, order="confidence", guidance=2.0, temperature=0.9)
    with pytest.raises(ValueError, match=r"one guidance for all sub-tokens, got \[2.0, 3.0\]"):
        generator().make_settings(guidance=[2.0, 3.0])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="num_steps must be at most 6"):
        generator().generate(torch.tensor([0]), [0], BitwiseSampling(num_steps=7))
    with pytest.raises(ValueError, match="num_steps must be at most 6"):
        generator().make_settings(num_steps=7)
    with pytest.raises(ValueError, match="order"):
        BitwiseSampling(order="raster")
    with pytest.raises(ValueError, match="greedy must be true or false, got 3"):
        BitwiseSampling(greedy=3)
    with pytest.raises(ValueError, match=r"\(1, 16, 6\)"):
        generator()(
            torch.zeros(1, 16, 5, dtype=torch.int64), torch.zeros(1, 16, 5, dtype=torch.bool), torch.tensor([0])
        )
