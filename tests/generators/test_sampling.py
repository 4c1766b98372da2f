"""Sampling: the reference's greedy tokens, filters against plain formulas, seeds, guidance."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from generator_goldens import GOLDENS, generator, hash_of_indices, tokens_and_labels
from processes import process_group, spawn
from test_autoregressive import small
from test_bitwise import generator as bitwise
from test_masked import small as small_masked
from torch.profiler import ProfilerActivity, profile

from open_magvit2.generators.compiled import CompiledSampler
from open_magvit2.generators.drawing import NotFiniteError, Streams, SubTokenSampling, draw, filtered
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.generators.packing import PackedBlock, PackedLinear, packed
from open_magvit2.generators.sampling import Sampling, make_settings, sample
from open_magvit2.layers.attention import SelfAttention
from open_magvit2.protocols import Generator
from open_magvit2.training.transformer_recomputation import set_transformer_recomputation

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")

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
    make_caches = model.make_caches
    monkeypatch.setattr(model, "make_caches", lambda rows: batches.append(rows) or make_caches(rows))
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
    # of a pair, the sub-token at scale 1 has the conditional logits exactly
    tenfold = Sampling([SubTokenSampling(guidance=10.0), SubTokenSampling()], greedy=True)
    half = sample(model, labels, [1, 2], tenfold, 1)
    sub_tokens = model.factorization.split(half)
    context = model.context(model.class_embedding(labels)[:, None])
    expected = model.sub_token_logits(context, sub_tokens)[1].argmax(dim=-1)
    assert torch.equal(sub_tokens[..., 1], expected)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-5, 1e-38, 1e-44, 1e-300, 5e-324])
def test_a_tiny_temperature_takes_the_most_probable_value(dtype, temperature):
    logits = torch.tensor([[-30.0, -2.0, -1.0], [9.0, 500.0, -80.0], [4.0, 4.0, 3.0]], dtype=dtype)
    for rest in ({}, {"top_k": 2}, {"top_p": 0.9}):
        found = filtered(logits, SubTokenSampling(temperature=temperature, **rest))
        assert found.tolist() == [[0, 0, 1], [0, 1, 0], [0.5, 0.5, 0]]
    cold = Sampling([SubTokenSampling(temperature=temperature)])
    model, labels = small().to(dtype), torch.tensor([0, 3])
    assert torch.equal(sample(model, labels, [0, 1], cold), sample(model, labels, [0, 1], Sampling(greedy=True)))


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


@pytest.mark.parametrize("make", [small, small_masked])
def test_both_models_are_generators(make):
    generator, labels = make(), torch.tensor([0, 4])
    assert isinstance(generator, Generator)
    assert (generator.codebook_size, generator.grid, generator.num_classes) == (32, (3, 4), 5)
    settings = generator.make_settings(guidance=[2.0], temperature=1.5)
    indices = generator.generate(labels, [0, 1], settings)
    assert (indices.shape, indices.dtype) == ((2, 3, 4), torch.int64)
    assert torch.equal(indices, generator.generate(labels, [0, 1], settings))
    with pytest.raises(ValueError, match="has no guidence; it has"):
        generator.make_settings(guidence=2.0)
    with pytest.raises(ValueError, match="2 seeds for 1 labels"):
        generator.generate(labels[:1], [0, 1])
    with pytest.raises(ValueError, match="seeds must be at least 0"):
        generator.generate(labels[:1], [-1])


def test_settings_from_named_options():
    made = make_settings(2, guidance=[1.9, 2.0], temperature=1.1, schedule="linear")
    groups = [SubTokenSampling(guidance=1.9, temperature=1.1), SubTokenSampling(guidance=2.0, temperature=1.1)]
    assert made == Sampling(tuple(groups), "linear")
    assert make_settings(2, greedy=True) == Sampling((SubTokenSampling(),) * 2, greedy=True)
    with pytest.raises(ValueError, match="top_k must be one number, or 2, one a sub-token"):
        make_settings(2, top_k=[1, 2, 3])


@pytest.mark.parametrize("make", [small, bitwise])
def test_options_without_effect_are_refused(make):
    settings = make().make_settings
    for options, message in (
        ({"power": 2.0}, "power is of the schedule power_cosine, got schedule constant"),
        ({"power": 2.0, "schedule": "cosine"}, "got schedule cosine"),
        ({"greedy": True, "temperature": 0.5}, "greedy takes the most probable value, got temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            settings(**options)
    with pytest.raises(ValueError, match="got top_k, top_p too"):
        make_settings(2, greedy=True, top_k=[2], top_p=0.5)
    assert settings(power=2.0, schedule="power_cosine", greedy=True).power == 2.0
    assert settings(greedy=False, temperature=[0.5]) == settings(temperature=0.5)


def _share(rank, world, folder, expected):
    labels, seeds = torch.tensor([0, 4, 2, 2, 1, 3, 0]), list(range(10, 17))
    mine = slice(rank, None, world)
    with process_group(rank, world, folder):
        for make, settings in ((small, SETTINGS), (small_masked, None)):
            found = make().generate(labels[mine], seeds[mine], settings)
            gathered = [None] * world
            dist.all_gather_object(gathered, found)
            whole = torch.empty(7, 3, 4, dtype=torch.int64)
            for number, part in enumerate(gathered):
                whole[number::world] = part
            assert torch.equal(whole, expected[make.__module__]), make.__module__


def test_two_processes_make_the_same_images_as_one(tmp_path):
    labels, seeds = torch.tensor([0, 4, 2, 2, 1, 3, 0]), list(range(10, 17))
    pairs = ((small, SETTINGS), (small_masked, None))
    expected = {make.__module__: make().generate(labels, seeds, settings) for make, settings in pairs}
    spawn(_share, 2, tmp_path, expected)


@pytest.mark.parametrize("make", [small, small_masked])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_sampling_in_any_precision(make, dtype):
    generator, labels = make().to(dtype), torch.arange(5).repeat(8)
    indices = generator.generate(labels, list(range(40)), generator.make_settings(guidance=2.0))
    assert indices.min() >= 0
    assert indices.max() < 32
    exact = make().generate(labels, list(range(40)), generator.make_settings(guidance=2.0))
    # one token that is rounded to another changes all that come after it
    assert (indices == exact).double().mean() > (0.99 if dtype.itemsize > 2 else 0.3)


def test_sampling_under_autocast_keeps_the_cache_in_16_bits():
    model, labels = small().float(), torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert model.make_caches(2)[0].values.dtype == torch.bfloat16
        indices = sample(model, labels, [0, 1], SETTINGS)
    assert indices.max() < 32
    assert model.make_caches(2)[0].values.dtype == torch.float32


def test_greedy_needs_no_seed_and_is_the_most_probable_value():
    model, labels = small(), torch.tensor([0, 3])
    greedy = sample(model, labels, [0, 1], Sampling(greedy=True))
    assert torch.equal(sample(model, labels, [8, 9], Sampling(greedy=True)), greedy)
    top = Sampling([SubTokenSampling(top_k=1)])
    assert torch.equal(sample(model, labels, [8, 9], top), greedy)
    assert not torch.equal(sample(model, labels, [8, 9]), greedy)


def largest_allocation(function) -> int:
    """Bytes of the largest tensor that a function allocates, scratch memory of operators included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    waiting, largest = list(profiler.profiler.kineto_results.experimental_event_tree()), 0
    while waiting:
        event = waiting.pop()
        largest = max(largest, getattr(event.extra_fields, "alloc_size", 0))
        waiting += event.children
    return largest


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_step_allocates_no_tensor_of_the_size_of_a_cache(is_packed):
    model = small(grid=(16, 16)).float()
    spatial, factorized = model.make_caches(8)
    assert factorized.values.shape[4] == 2  # slots inside a position
    features = model.class_embedding(torch.zeros(8, dtype=torch.int64))[:, None]
    keys_of_one_layer = spatial.values[0, 0].nbytes
    assert largest_allocation(lambda: spatial.values.clone()) >= keys_of_one_layer  # the meter works

    def last_step():
        slot = model.context(features, spatial, 255)[:, 0]
        for group in range(2):
            model.next_logits(slot, group, factorized)

    with packed(model, 8) if is_packed else nullcontext():
        assert largest_allocation(last_step) <= keys_of_one_layer / 4


OPTIONS = [
    {},
    {"bits": (5,)},
    {"bits": (2, 2, 1)},
    {"normalize_queries_and_keys": True, "rotate_class_slot": True},
    {"normalize_queries_and_keys": True, "target_positions": True},
    {"width": 64, "num_heads": 1, "hidden": 65, "num_factorized_blocks": 0},
]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rows", [1, 3])
def test_packed_steps_compute_what_the_generator_does(options, dtype, bound, rows):
    model = small(**options).to(dtype)
    for weight in model.parameters():
        if weight.ndim == 1:  # of norms
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    sub_tokens = torch.stack([torch.randint(0, size, (rows, 12)) for size in model.factorization.sizes], dim=-1)
    labels = torch.arange(rows)
    expected = model(sub_tokens, labels)
    spatial, factorized = model.make_caches(rows)
    features = model.class_embedding(labels)[:, None]
    with packed(model, rows):
        is_packed = dtype == torch.float32 and torch.backends.mkldnn.is_available()
        assert isinstance(model.spatial_blocks[0].forward, PackedBlock) == is_packed
        for position in range(12):
            slot = model.context(features, spatial, position)[:, 0]
            for group in range(len(model.bits)):
                logits = model.next_logits(slot, group, factorized)
                scale = max(1.0, expected[group].abs().max().item())
                assert (logits - expected[group][:, position]).abs().max() < bound * scale, (position, group)
                slot = model.embeddings[group](sub_tokens[:, position, group])
            features = model.embed_tokens(sub_tokens[:, position : position + 1])


@needs_onednn
def test_what_is_packed_is_what_it_is_equal_to_and_is_gone_afterwards():
    def forwards(model) -> set[type]:
        with packed(model, 2):
            found = {type(vars(part)["forward"]) for part in model.modules() if "forward" in vars(part)}
        assert not any("forward" in vars(part) for part in model.modules())
        return found

    assert forwards(small().float()) == {PackedBlock, PackedLinear}  # the linear layers are the heads
    assert forwards(small().float().train()) == {PackedLinear}  # the blocks drop features out
    for model in (small().double(), small().half(), small().to("meta")):
        assert forwards(model) == set()
    with torch.autocast("cpu", torch.bfloat16):
        assert forwards(small().float()) == set()


class _Attention(SelfAttention):
    """Of a user, who may change what it computes."""


def _other_attention(block):
    block.attention = _Attention(block.attention.qkv.in_features, block.attention.num_heads).eval()


def _hook(block):
    block.feed_forward.gate.register_forward_hook(lambda layer, inputs, output: output * 3)


def _other_forward(block):
    block.attention.forward = lambda features, *arguments: features * 3


def _bias(block):
    block.feed_forward.down = torch.nn.Linear(block.feed_forward.down.in_features, 32)
    torch.nn.init.constant_(block.feed_forward.down.bias, 3.0)


def _weight_made_by_a_hook(block):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(block.attention.qkv)
    block.attention.qkv.weight_g.data *= 3  # the weight follows at the next call


def _other_dropout(block):
    block.attention.dropout = torch.nn.ReLU()


@pytest.mark.parametrize(
    "change", [_other_attention, _hook, _other_forward, _bias, _weight_made_by_a_hook, _other_dropout]
)
def test_what_a_user_changed_is_computed_as_it_is(change):
    torch.manual_seed(0)
    model = small().float()
    before = sample(model, torch.arange(5), list(range(5)))
    for block in model.spatial_blocks:
        change(block)
    changed = sample(model, torch.arange(5), list(range(5)))
    assert not torch.equal(changed, before)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(changed, sample(model, torch.arange(5), list(range(5))))


def test_dropout_that_a_user_switched_on_is_drawn():
    model = small(dropout=0.5).float()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.train()
    samples = [sample(model, torch.arange(5), list(range(5)), Sampling(greedy=True)) for _ in range(2)]
    assert not torch.equal(*samples)


def test_two_threads_sample_from_one_model():
    model = small().float()
    expected = sample(model, torch.arange(5), list(range(5)))
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: sample(model, torch.arange(5), list(range(5))), range(12)))
    assert all(torch.equal(one, expected) for one in found)
    assert not any("forward" in vars(part) for part in model.modules())


@needs_onednn
def test_levels_of_recomputation_are_there_again_afterwards():
    model = small().float()
    set_transformer_recomputation(model, "activations")
    forward = model.spatial_blocks[0].forward
    with packed(model, 2):
        assert isinstance(model.spatial_blocks[0].forward, PackedBlock)
    assert model.spatial_blocks[0].forward == forward


@needs_onednn
def test_packed_weights_give_the_same_products():
    layer, features = torch.nn.Linear(64, 96).requires_grad_(False), torch.randn(8, 64)
    module, expected = torch.nn.Sequential(layer), layer(features)
    with packed(module, 8):
        assert (module(features) - expected).abs().max() < 1e-5
        assert (module(features[:1, None]) - expected[:1, None]).abs().max() < 1e-5
        assert (layer.forward.plus(features, expected) - 2 * expected).abs().max() < 1e-5


def test_sampling_leaves_the_model_as_it_was_and_training_goes_on():
    for model in (small(), small_masked()):
        names = set(model.state_dict())
        with torch.inference_mode():
            model.generate(torch.tensor([0]), [0])
        assert set(model.state_dict()) == names
        model.train().requires_grad_(True)
        sub_tokens, labels = torch.zeros(1, 12, 2, dtype=torch.int64), torch.tensor([0])
        mask = (sub_tokens > 0,) if isinstance(model, MaskedGenerator) else ()
        sum(logits.square().mean() for logits in model(sub_tokens, *mask, labels)).backward()
        assert model.class_embedding.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": torch.tensor([9])}, "class 9 is outside the table: expected 0 to 4"),
        ({"labels": torch.tensor([5])}, "class 5 is outside the table: expected 0 to 4"),  # the null class
        ({"seeds": [1, 2]}, "2 seeds for 1 labels"),
        ({"num_tokens": 13}, "num_tokens must be 1 to 12, the grid's, got 13"),
        ({"labels": torch.zeros(0, dtype=torch.int64), "seeds": []}, "0 seeds for 0 labels"),
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
        (lambda: SubTokenSampling(top_p=90), r"top_p must be in \[0, 1\], got 90"),
        (lambda: SubTokenSampling(guidance=-1.0), "guidance must be at least 0"),
        (lambda: Sampling(schedule="exponential"), "got 'exponential'"),
        (lambda: Sampling(greedy="no"), "greedy must be true or false, got 'no'"),
        (lambda: make_settings(3, guidance="abc"), "guidance must be at least 0, got 'abc'"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("made", [small, lambda: CompiledSampler(small(), 2, "eager"), small_masked, bitwise])
def test_logits_that_are_not_finite_give_no_image(made):
    """As a training that has ruined its weights: here the last ones before the heads."""
    model = made()
    labels, seeds = torch.arange(2), [0, 1]
    model.generate(labels, seeds)
    getattr(model, "generator", model).norm.weight.data.fill_(math.nan)
    with pytest.raises(NotFiniteError, match=r"not finite.*earlier checkpoint"):
        model.generate(labels, seeds)


@pytest.mark.parametrize("made", [small, small_masked, bitwise])
def test_a_single_call_whose_logits_overflow_is_seen(made):
    """As float16 may do at one position, with every later one finite again."""
    model, calls = made(), []
    model.norm.register_forward_hook(
        lambda module, inputs, output: output * math.inf if calls.append(1) or len(calls) == 2 else None
    )
    with pytest.raises(NotFiniteError, match="not finite"):
        model.generate(torch.arange(2), [0, 1])
    assert len(calls) > 3
