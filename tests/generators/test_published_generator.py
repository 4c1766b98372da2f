"""A file of the published form through `load_generator` and `load_tokenizer`."""

import pytest
import torch

from open_magvit2 import load_tokenizer
from open_magvit2.generators.pretrained import load_generator
from open_magvit2.generators.sampling import Sampling, SubTokenSampling, filtered, sample

FILE, EXPECTED = "fixtures/published_ar_tiny.ckpt", "fixtures/published_ar_tiny_expected.pt"


@pytest.fixture
def expected(shared):
    return torch.load(shared / EXPECTED, weights_only=True)


@pytest.fixture
def generator(shared):
    return load_generator(shared / FILE, grid=(4, 4), head_width=32).double()


def test_logits_losses_and_greedy_tokens(generator, expected):
    """The expected values are the reference's in float32; ours are computed in float64."""
    sub_tokens, labels = torch.stack(expected["sub_tokens"], dim=-1), expected["label"]
    assert torch.equal(generator.factorization.split(expected["indices"].flatten(1)), sub_tokens)
    null = torch.full_like(labels, generator.null_class)
    for key, classes in (("logits", labels), ("null_class_logits", null)):
        for found, values in zip(generator(sub_tokens, classes), expected[key], strict=True):
            assert (found - values).abs().max() < 1e-4
    for key, scales in (("greedy_unguided", (1, 1)), ("greedy_guided_2_2", (2, 2)), ("greedy_guided_1_9_4", (1.9, 4))):
        settings = Sampling([SubTokenSampling(guidance=scale) for scale in scales], greedy=True)
        indices = sample(generator, labels, [0, 0], settings).flatten(1)
        assert torch.equal(generator.factorization.split(indices), torch.stack(expected[key], dim=-1))


def test_probabilities_after_guidance_and_filters(generator, expected):
    sub_tokens, labels = torch.stack(expected["sub_tokens"], dim=-1), expected["label"]
    conditional = generator(sub_tokens, labels)[1][:, 0]
    null = generator(sub_tokens, torch.full_like(labels, generator.null_class))[1][:, 0]
    logits = null + 1.85 * (conditional - null)
    for key, values in expected["guided_scale_1_85_probabilities_at_position_0_of_sub_token_1"].items():
        options = dict(item.split("=") for item in key.split(","))
        setting = SubTokenSampling(
            temperature=float(options["temperature"]), top_k=int(options["top_k"]), top_p=float(options["top_p"])
        )
        found = filtered(logits, setting)
        assert torch.equal(found > 0, values > 0), key
        assert (found - values).abs().max() < 1e-5, key


def test_the_tokenizer_inside(shared, expected):
    tokenizer = load_tokenizer(shared / FILE, "raw").double()
    assert torch.equal(tokenizer.tokenize(expected["image"].double()), expected["indices"])
    sub_tokens = torch.stack(expected["greedy_guided_2_2"], dim=-1)
    generator = load_generator(shared / FILE, grid=(4, 4), head_width=32)
    indices = generator.factorization.join(sub_tokens).unflatten(1, generator.grid)
    assert (tokenizer.detokenize(indices) - expected["decoded_greedy_guided_2_2"]).abs().max() < 1e-4


def changed(shared, tmp_path, change):
    content = torch.load(shared / FILE, weights_only=True)
    change(content["state_dict"])
    torch.save(content, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def test_caches_that_were_saved_are_dropped(shared, tmp_path):
    name = "transformer.spatial_blocks.0.attention.kv_cache.k_cache"
    path = changed(shared, tmp_path, lambda state: state.update({name: torch.zeros(2, 2)}))
    assert load_generator(path, grid=(4, 4), head_width=32).num_spatial_blocks == 2


@pytest.mark.parametrize("head_width", [48, 96])
def test_a_head_width_that_does_not_divide_the_width_is_refused(shared, head_width):
    with pytest.raises(ValueError, match=f"head_width {head_width} does not divide the width 64"):
        load_generator(shared / FILE, grid=(4, 4), head_width=head_width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("transformer.norm.weight"), "1 missing in the file:\n    norm.weight"),
        (lambda s: s.update({"transformer.extra": torch.ones(1)}), "1 unexpected in the file:\n    extra"),
        (lambda s: s.update({"transformer.tok_emb.weight": torch.ones(2, 2)}), "IBQ"),
        (lambda s: s.pop("transformer.pre_emb.weight"), "lacks transformer.pre_emb.weight"),
        (lambda s: s.update({"transformer.norm.weight": torch.full((64,), torch.nan)}), "infinite or NaN"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(shared, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_generator(changed(shared, tmp_path, change), grid=(4, 4), head_width=32)
