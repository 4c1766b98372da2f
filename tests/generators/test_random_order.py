"""Random orders (RAR): what a position sees, what the loss is, how the share of random orders falls."""

import pytest
import torch
from small_generator_training import SIZES, module, tokens

from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.sampling import Sampling, sample

RAR = {"target_positions": True, "dropout": 0.0}


def generator(**options) -> AutoregressiveGenerator:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_spatial_blocks": 2, "num_factorized_blocks": 1, **RAR, **options}
    made = AutoregressiveGenerator(**sizes).double().eval()
    for head in made.heads:
        torch.nn.init.normal_(head.weight)  # they begin at zero
    return made


def inputs(number: int = 3):
    made = generator()
    sub_tokens = made.factorization.split(tokens(number).flatten(1))
    orders = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(number)])
    return made, sub_tokens, torch.arange(number), orders


def test_the_raster_order_by_name_is_that_without_one():
    made, sub_tokens, labels, _ = inputs()
    raster = torch.arange(16).expand(3, -1)
    for first, second in zip(made(sub_tokens, labels), made(sub_tokens, labels, raster), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_a_position_sees_those_before_it_in_its_order_and_no_other():
    made, sub_tokens, labels, orders = inputs()
    logits = made(sub_tokens, labels, orders)
    for moment in (0, 5, 15):
        changed = sub_tokens.clone()
        for image in range(3):
            changed[image, orders[image, moment], -1] ^= 1
        for before, after in zip(logits, made(changed, labels, orders), strict=True):
            moved = (before - after).abs().amax(dim=-1) > 1e-12
            for image in range(3):
                by_moment = moved[image, orders[image]]
                assert not by_moment[: moment + 1].any()
                assert by_moment[moment + 1 :].all()


def test_images_of_one_batch_have_orders_of_their_own():
    made, sub_tokens, labels, orders = inputs()
    together = made(sub_tokens, labels, orders)
    for image in range(3):
        alone = made(*(values[image : image + 1] for values in (sub_tokens, labels, orders)))
        for all_images, one in zip(together, alone, strict=True):
            torch.testing.assert_close(all_images[image : image + 1], one, rtol=0, atol=1e-12)


def test_sampling_is_raster_with_the_target_positions_and_cached_equals_uncached():
    made = generator()
    labels = torch.tensor([1, 2])
    indices = sample(made, labels, [3, 4], Sampling(greedy=True))
    logits = made(made.factorization.split(indices.flatten(1)), labels)
    assert torch.equal(
        torch.stack([values.argmax(-1) for values in logits], dim=-1), made.factorization.split(indices.flatten(1))
    )


def test_the_share_of_random_orders_falls_from_all_to_none():
    training = module(sizes=RAR, random_order_steps=(10, 30))
    assert [training.random_share(step) for step in (0, 10, 20, 30, 99, None)] == [1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    batch = {"tokens": tokens(64), "label": torch.arange(64) % 32, "index": torch.arange(64)}
    raster = torch.arange(16)
    shares = [
        sum(not torch.equal(order, raster) for order in training.with_draws(batch, step)["order"]) / 64
        for step in (0, 20)
    ]
    assert shares[0] == 1.0
    assert 0.25 < shares[1] < 0.75
    assert all("order" not in training.with_draws(batch, step) for step in (30, None))


@pytest.mark.long
def test_random_orders_are_learned_and_the_raster_sampled_back():
    """Eight images by heart, in random orders at first and in raster at the end."""
    options = {"micro_batch_size": 8, "learning_rate": 3e-3, "class_dropout": 0.0, "random_order_steps": (100, 250)}
    training = module(sizes={**RAR, "width": 64, "num_heads": 4, "hidden": 128}, **options)
    batch = {"tokens": tokens(8), "label": torch.arange(8), "index": torch.arange(8)}
    optimizer = training.configure_optimizers()
    for step in range(350):
        loss = training.train_on(training.with_draws(batch, step), optimizer, step=step)["loss"]
    assert loss < 0.05
    found = sample(training.generator.eval(), torch.arange(8), list(range(8)), Sampling(greedy=True))
    assert torch.equal(found, tokens(8))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="target_positions"):
        module(random_order_steps=(0, 10))
    with pytest.raises(ValueError, match=r"\(20, 10\)"):
        module(sizes=RAR, random_order_steps=(20, 10))
    plain = generator(target_positions=False)
    with pytest.raises(ValueError, match="target_positions"):
        plain(torch.zeros(1, 16, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.arange(16)[None])
