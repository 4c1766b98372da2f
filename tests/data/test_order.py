"""Sharding: what each rank gets, in which order, and from where after an interruption."""

from itertools import chain

import pytest

from open_magvit2.data.order import TrainingSampler, ValidationSampler, random_stream


def joined(lists):
    return list(chain.from_iterable(lists))


def global_batches(num_replicas, epoch=0, start=0, num_samples=50, global_batch_size=12, seed=3):
    """The batches of all ranks, as a list over steps of lists of keys."""
    shards = []
    for rank in range(num_replicas):
        sampler = TrainingSampler(num_samples, global_batch_size, num_replicas, rank, seed)
        sampler.move_to(epoch, start)
        keys = list(sampler)
        assert len(keys) == sampler.num_steps_left * sampler.batch_size
        size = sampler.batch_size
        shards.append([keys[first : first + size] for first in range(0, len(keys), size)])
    return [joined(parts) for parts in zip(*shards, strict=True)]


def test_training_takes_whole_batches_of_different_images():
    batches = global_batches(num_replicas=1)
    assert [len(batch) for batch in batches] == [12] * 4  # 50 images: two are left for other epochs
    keys = joined(batches)
    assert len(set(keys)) == 48
    assert set(keys) <= set(range(50))


@pytest.mark.parametrize("num_replicas", [2, 3, 4, 12])
def test_global_batches_do_not_depend_on_the_number_of_ranks(num_replicas):
    for epoch in range(3):
        assert global_batches(num_replicas, epoch) == global_batches(1, epoch)


def test_every_epoch_and_seed_has_its_own_order():
    orders = [tuple(joined(global_batches(1, epoch))) for epoch in range(3)]
    indices = [tuple(key % 50 for key in order) for order in orders]
    assert len(set(indices)) == 3
    assert all(key // 50 == epoch for epoch, order in enumerate(orders) for key in order)
    assert global_batches(1, seed=4) != global_batches(1, seed=3)
    assert global_batches(1) == global_batches(1)


def test_no_image_is_left_out_for_good():
    seen = {key % 50 for epoch in range(5) for batch in global_batches(1, epoch) for key in batch}
    assert seen == set(range(50))


def test_iterating_again_gives_the_same_order_until_set_epoch():
    sampler = TrainingSampler(50, 12)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert [key - 50 for key in sampler] != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_a_moved_sampler_continues_where_the_other_stopped(num_replicas):
    assert global_batches(num_replicas, epoch=2, start=24) == global_batches(1, epoch=2)[2:]
    assert global_batches(num_replicas, epoch=2, start=48) == []


def test_start_holds_for_its_own_epoch_only():
    sampler = TrainingSampler(50, 12)
    sampler.move_to(epoch=2, start=36)
    sampler.set_epoch(2)  # Lightning does this when the resumed epoch starts
    assert len(list(sampler)) == 12
    assert len(sampler) == 48  # Lightning counts a whole epoch's batches, the ones before the start included
    sampler.set_epoch(3)
    assert len(list(sampler)) == len(sampler) == 48


@pytest.mark.parametrize("start", [0, 12, 20])  # 20: where another batch size left off
def test_advancing_by_steps_is_iterating_over_them(start):
    here = TrainingSampler(50, 12)
    here.move_to(1, start)
    orders = [list(here)]
    for epoch in (2, 3):
        here.set_epoch(epoch)
        orders.append(list(here))
    batches = [order[first : first + 12] for order in orders for first in range(0, len(order), 12)]
    for step, batch in enumerate(batches):
        sampler = TrainingSampler(50, 12)
        sampler.move_to(1, start)
        sampler.advance(step)
        assert list(sampler)[:12] == batch


@pytest.mark.parametrize(("num_samples", "num_replicas"), [(10, 1), (10, 3), (11, 4), (4, 4)])
def test_validation_gives_every_index_exactly_once(num_samples, num_replicas):
    shards = [list(ValidationSampler(num_samples, num_replicas, rank)) for rank in range(num_replicas)]
    assert sorted(joined(shards)) == list(range(num_samples))
    lengths = [len(ValidationSampler(num_samples, num_replicas, rank)) for rank in range(num_replicas)]
    assert lengths == [len(shard) for shard in shards]
    assert max(lengths) - min(lengths) <= 1
    assert all(shard == sorted(shard) for shard in shards)


def test_errors_say_what_was_got_and_what_to_do():
    with pytest.raises(ValueError, match="multiple of the number of devices: got 10 on 4 device"):
        TrainingSampler(100, 10, num_replicas=4)
    with pytest.raises(ValueError, match="global_batch_size must be at least 1, got 0"):
        TrainingSampler(100, 0)
    with pytest.raises(ValueError, match=r"holds 7 image\(s\), fewer than one global batch of 8"):
        TrainingSampler(7, 8)
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        TrainingSampler(100, 10, num_replicas=2, rank=2)
    with pytest.raises(ValueError, match=r"start must be in \[0, 50\]"):
        TrainingSampler(50, 12).move_to(0, 51)
    with pytest.raises(ValueError, match=r"holds 2 image\(s\), fewer than the 3 device"):
        ValidationSampler(2, num_replicas=3)


def test_random_streams_differ_by_purpose_and_by_every_number():
    draws = [
        random_stream(purpose, *numbers).random()
        for purpose in ("shuffle", "transform")
        for numbers in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len(set(draws)) == len(draws)
    assert random_stream("shuffle", 5, 7).random() == random_stream("shuffle", 5, 7).random()
    with pytest.raises(ValueError, match="non-negative"):
        random_stream("shuffle", -1)
