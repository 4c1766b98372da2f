"""The autoregressive generator against the reference's goldens, and what must hold of any such model."""

import pytest
import torch
from generator_goldens import GOLDENS, arguments, generator, manifest, probe, tokens_and_labels

from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.published import PREFIX, published_name
from open_magvit2.layers.rotary import axial_rotary_table, rotate

TINY = ["om2_ar_tiny", "om2_ar_tiny_9_9"]
FULL = [pytest.param(f"om2_ar_{size}", marks=pytest.mark.slow) for size in ("B", "L", "XL")]
SMALL = {"bits": (3, 2), "grid": (3, 4), "num_classes": 5, "width": 32, "num_heads": 2, "hidden": 48, "dropout": 0.0}


def small(**changes) -> AutoregressiveGenerator:
    """Two spatial and two factorized blocks in float64 whose heads are not zero."""
    torch.manual_seed(0)
    model = AutoregressiveGenerator(**(SMALL | {"num_spatial_blocks": 2, "num_factorized_blocks": 2} | changes))
    for head in model.heads:
        torch.nn.init.normal_(head.weight)
    return model.double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", [*TINY, *FULL])
def test_it_computes_what_the_reference_computes(name):
    golden, model = GOLDENS[name], generator(name)
    tokens, labels = tokens_and_labels(name)
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"]
    assert tokens.flatten()[:6].tolist() == golden["tokens_head"]
    assert labels.tolist() == golden["labels"]
    sub_tokens = model.factorization.split(tokens)
    embedded = model.embed(sub_tokens, labels)
    context = model.context(embedded)
    logits = model(sub_tokens, labels)
    has_null = "null_class_logits_0" in golden  # not of XL
    null = model(sub_tokens, torch.full_like(labels, model.null_class)) if has_null else None
    found = {"embedded": embedded, "context": context}
    for group in range(2):
        assert sub_tokens.flatten(0, 1)[:6, group].tolist() == golden["sub_tokens_head"][group]
        found |= {f"logits_{group}": logits[group]}
        if has_null:
            found |= {f"null_class_logits_{group}": null[group]}
        loss = torch.nn.functional.cross_entropy(logits[group].flatten(0, 1), sub_tokens[..., group].flatten())
        assert loss.item() == pytest.approx(golden["cross_entropy"][group], abs=1e-9)
    for what, values in found.items():
        expected = torch.tensor(golden[what]["probe"], dtype=torch.float64)
        assert list(values.shape) == golden[what]["shape"], what
        assert (probe(values) - expected).abs().max() < 1e-9, what
        assert values.mean().item() == pytest.approx(golden[what]["mean"], abs=1e-9), what
        assert values.std().item() == pytest.approx(golden[what]["std"], abs=1e-9), what


@pytest.mark.parametrize("size", ["B", "L", "XL"])
def test_names_and_shapes_are_the_published_ones(size):
    with torch.device("meta"):
        model = AutoregressiveGenerator(**arguments(f"om2_ar_{size}"))
    ours = {PREFIX + published_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert ours == manifest(size)
    assert sum(p.numel() for p in model.parameters()) == GOLDENS[f"om2_ar_{size}"]["parameters"]


def test_rotary_table_is_the_reference_s():
    golden = GOLDENS["rotary"]
    with torch.device("meta"):
        model = AutoregressiveGenerator(**arguments("om2_ar_B"))
    table = model.rotary(torch.zeros(1, dtype=torch.float64))
    for position, pairs in golden["positions"].items():
        if int(position) < len(table):
            for pair, expected in pairs.items():
                assert table[int(position), int(pair)].tolist() == pytest.approx(expected, abs=1e-11)
    ramp = rotate(torch.arange(64, dtype=torch.float64)[None] / 64, table[18:19])[0]
    expected = golden["rotated_arange64_over_64_at_position_18_head"]
    assert ramp[[0, 1, 2, 3, 32, 33, 34, 35]].tolist() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ({"rotate_class_slot": True}, (1.5, 3.0)),
        ({"hidden": None, "normalize_queries_and_keys": True}, (0.1, 0.1)),
    ],
)
def test_the_published_choices_are_visible_in_the_logits(change, least):
    name = "om2_ar_tiny"
    tokens, labels = tokens_and_labels(name)
    right, other = generator(name), generator(name, **change)
    sub_tokens = right.factorization.split(tokens)
    pairs = zip(right(sub_tokens, labels), other(sub_tokens, labels), least, strict=True)
    assert all((a - b).abs().max() > bound for a, b, bound in pairs)


def test_no_logit_depends_on_what_comes_after_it():
    model = small()
    sub_tokens = torch.stack([torch.randint(0, size, (1, 12)) for size in model.factorization.sizes], dim=-1)
    labels = torch.tensor([3])
    before = model(sub_tokens, labels)
    for position in (0, 5, 11):
        changed = sub_tokens.clone()
        changed[:, position, 1] ^= 1  # the last sub-token of a token
        after = model(changed, labels)
        for group in range(2):
            assert torch.equal(before[group][:, : position + 1], after[group][:, : position + 1])
        changed[:, position, 0] ^= 1
        after = model(changed, labels)
        assert torch.equal(before[0][:, : position + 1], after[0][:, : position + 1])
        assert not torch.equal(before[1][:, position], after[1][:, position])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("bits", [(3, 2), (5,), (2, 2, 1)])
def test_cached_steps_equal_the_whole_sequence(bits, dtype, bound):
    model = small(bits=bits).to(dtype)
    sub_tokens = torch.stack([torch.randint(0, size, (2, 12)) for size in model.factorization.sizes], dim=-1)
    labels = torch.tensor([0, 4])
    expected = model(sub_tokens, labels)
    spatial, factorized = model.make_caches(2)
    features = model.class_embedding(labels)[:, None]
    for position in range(12):
        slot = model.context(features, spatial, position)[:, 0]
        for group in range(len(bits)):
            logits = model.next_logits(slot, group, factorized)
            scale = max(1.0, expected[group].abs().max().item())
            assert (logits - expected[group][:, position]).abs().max() < bound * scale
            slot = model.embeddings[group](sub_tokens[:, position, group])
        features = model.embed_tokens(sub_tokens[:, position : position + 1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_compiled_rotation_is_the_eager_one(dtype):
    table = axial_rotary_table((3, 4), 16)
    features = torch.randn(2, 12, 3, 5, 16).to(dtype).permute(2, 0, 3, 1, 4)[0]  # as attention has them
    compiled = torch.compile(rotate, backend="eager", fullgraph=True)(features, table)
    assert compiled.dtype == dtype
    bound = 16 * torch.finfo(dtype).eps
    assert (compiled.double() - rotate(features, table).double()).abs().max() <= bound


def test_a_new_model_predicts_every_value_alike():
    model = AutoregressiveGenerator(**SMALL, num_spatial_blocks=1, num_factorized_blocks=1)
    logits = model(torch.zeros(1, 12, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert all(bool((values == 0).all()) for values in logits)


def test_weights_in_half_precision_keep_their_angles():
    model = small().bfloat16()
    table = model.rotary(torch.zeros(1, dtype=torch.bfloat16))
    assert table.dtype == torch.float32
    expected = axial_rotary_table((3, 4), 16).float()
    assert torch.equal(table[1:], expected)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((1, 11, 2), [0], r"expected sub-tokens \(1, 12, 2\) of grid \(3, 4\), got \(1, 11, 2\)"),
        ((1, 12, 2), [6], "class 6 is outside the table: expected 0 to 4"),
        ((1, 12, 2), [-1], "class -1 is outside"),
        ((1, 12, 2), [0.5], r"integer labels \[B\], got torch.float32"),
    ],
)
def test_bad_input_is_refused(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape, dtype=torch.int64), torch.tensor(labels))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 32"):
        small(num_heads=3)
    with pytest.raises(ValueError, match="head width 16 is no multiple of 6"):
        small(grid=(2, 2, 2))(torch.zeros(1, 8, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
        small(dropout=1.0)
