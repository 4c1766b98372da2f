"""TiTok, ViT-VQGAN, OmniTokenizer and BSQ-ViT: parity, names both ways, recognition, sizes, and what they refuse."""

import argparse

import numpy as np
import parity
import published_weights as published
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from small_published import SMALL, small_state

from open_magvit2 import load_tokenizer
from open_magvit2.evaluation import tokenizers
from open_magvit2.evaluation.tokenizers import _recognition
from open_magvit2.evaluation.tokenizers._omnitokenizer_networks import CosineAttention, PositionBias

# golden -> (manifest, value range of its networks, from our latent to the authors' layout)
GOLDENS = {
    "titok_s128.f32": ("titok_s128", (0, 1), lambda latent: latent.unsqueeze(2)),
    "titok_bl128_vq8k.f32": ("titok_bl128_vq8k", (0, 1), lambda latent: latent.unsqueeze(2)),
    "vitvqgan_small": ("vitvq_small", (0, 1), lambda latent: latent.flatten(2).transpose(1, 2)),
    "omni_imagenet_ucf.f32": ("omni_rope", (-0.5, 0.5), lambda latent: latent.unsqueeze(2)),
}
LARGE = ("titok_bl128_vq8k.f32",)
# manifest -> (family, codes, tokens of an image of 256 x 256, millions of parameters)
MANIFESTS = {
    "titok_s128": ("titok", 4096, (128,), 83.67),
    "titok_b64": ("titok", 4096, (64,), 204.81),
    "titok_l32": ("titok", 4096, (32,), 641.05),
    "titok_sl256_vq8k": ("titok", 8192, (256,), 330.26),
    "titok_bl128_vq8k": ("titok", 8192, (128,), 390.18),
    "vitvq_small": ("vit_vqgan", 8192, (32, 32), 51.96),
    "vitvq_base": ("vit_vqgan", 8192, (32, 32), 172.24),
    "vitvq_large": ("vit_vqgan", 8192, (32, 32), 615.32),
    "omni_rope": ("omnitokenizer", 8192, (32, 32), 50.83),
    "omni_rel": ("omnitokenizer", 8192, (32, 32), 52.44),
}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "spec" / "published"


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in GOLDENS])
def test_full_models_compute_what_the_authors_code_computes(folder, tmp_path, name):
    model, value_range, latent_layout = GOLDENS[name]
    torch.save({"state_dict": published.whole_state(folder, model)}, tmp_path / "file.ckpt")
    tokenizer = load_tokenizer(tmp_path / "file.ckpt")
    parity.check_golden(folder, name, tokenizer, value_range, latent_layout)
    assert tokenizer.checkpoint_facts["weights"] == "raw"


@pytest.mark.parametrize("model", MANIFESTS)
def test_every_published_name_is_one_tensor_of_ours_or_in_the_list_of_the_ignored(folder, model):
    family, num_codes, tokens, millions = MANIFESTS[model]
    tokenizer = parity.check_names(folder, model, family)
    assert tokenizer.codebook_size == num_codes
    assert tokenizer.token_shape((256, 256)) == tokens
    assert sum(p.numel() for p in tokenizer.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("family", SMALL)
def test_a_small_file_is_recognised_and_makes_the_round_trip(tmp_path, family):
    torch.save({"state_dict": small_state(family)}, tmp_path / "x.ckpt")
    tokenizer = load_tokenizer(tmp_path / "x.ckpt")
    assert tokenizer.checkpoint_facts["family"] == family
    size = tokenizer.size_rule.padded((1, 1))
    image = published.input_image([2, 3, *size]).float()
    reconstruction, indices = tokenizer.reconstruct(image)
    assert indices.shape == (2, *tokenizer.token_shape(size))
    assert torch.equal(tokenizer.tokenize(image), indices)
    assert torch.allclose(tokenizer.detokenize(indices), reconstruction, atol=1e-5)
    one = tokenizer.reconstruct(image[1:])[0]
    assert torch.allclose(one, reconstruction[1:], atol=1e-5)
    asked_for = tokenizers.load(family, tmp_path / "x.ckpt")
    assert torch.equal(asked_for.tokenize(image), indices)


@pytest.mark.parametrize(
    ("family", "published_name", "our_name"),
    [
        ("titok", "encoder.transformer.0.mlp.c_fc.bias", "encoder.transformer.blocks.0.feed_forward.up.bias"),
        ("vit_vqgan", "decoder.to_pixel.1.bias", "decoder.to_pixels.bias"),
        ("omnitokenizer", "post_vq_conv.1.bias", "decoder.embed.bias"),
        ("bsq_vit", "encoder.ln_post.weight", "encoder.norm_out.weight"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path, family, published_name, our_name):
    state = small_state(family)
    del state[published_name]
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=rf"1 missing in the file:\n +{our_name}".replace(".", r"\.")):
        load_tokenizer(tmp_path / "x.ckpt")
    state = small_state(family) | {"encoder.something.weight": torch.ones(2)}
    torch.save({"state_dict": state}, tmp_path / "y.ckpt")
    with pytest.raises(ValueError, match=r"1 unexpected in the file:\n +encoder\.something\.weight"):
        load_tokenizer(tmp_path / "y.ckpt")


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("titok", "quantize.embedding.weight"),
        ("vit_vqgan", "encoder.to_patch_embedding.0.weight"),
        ("omnitokenizer", "decoder.dec_temporal_transformer.layers.0.1.q_scale"),
        ("bsq_vit", "decoder.positional_embedding"),
    ],
)
def test_a_part_of_a_file_is_refused_by_what_is_missing(tmp_path, family, name):
    state = {key: value for key, value in small_state(family).items() if key != name}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=f"only a part of a tokenizer: {name} is missing"):
        tokenizers.load(family, tmp_path / "x.ckpt")


@pytest.mark.parametrize("family", SMALL)
def test_a_small_file_fits_one_family(family):
    fitting = [name for name, module in _recognition.families().items() if module.fits(small_state(family))]
    assert fitting == [family]


def load_small(tmp_path, family):
    torch.save({"state_dict": small_state(family)}, tmp_path / "x.ckpt")
    return load_tokenizer(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("family", "good", "bad", "rule"),
    [
        ("titok", (32, 32), (32, 48), "expected at most 32 x 32, got 32 x 48"),
        ("vit_vqgan", (32, 32), (24, 32), "expected a size of 32 x 32, got 24 x 32"),
        ("bsq_vit", (32, 32), (64, 64), "expected at most 32 x 32, got 64 x 64"),
        ("omnitokenizer", (32, 32), (16, 32), "multiples of 16 x 16, square, got 16 x 32"),
    ],
)
def test_sizes_are_the_tokenizers_own(tmp_path, family, good, bad, rule):
    tokenizer = load_small(tmp_path, family)
    assert tokenizer.tokenize(torch.zeros(1, 3, *good)).shape == (1, *tokenizer.token_shape(good))
    for call in (tokenizer.token_shape, lambda size: tokenizer.tokenize(torch.zeros(1, 3, *size))):
        with pytest.raises(ValueError, match=rule):
            call(bad)


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("titok", (1, 5), r"expected codes \[B, 6, 4\], got \(1, 6, 5\)"),
        ("vit_vqgan", (1, 4, 8), r"expected codes \[B, 6, 4, 4\], got \(1, 6, 4, 8\)"),
        ("bsq_vit", (1, 8, 8), r"expected codes \[B, 6, 4, 4\], got \(1, 6, 8, 8\)"),
        ("omnitokenizer", (1, 2, 4), "multiples of 16 x 16, square, got 16 x 32"),
    ],
)
def test_indices_of_another_grid_are_refused(tmp_path, family, shape, message):
    with pytest.raises(ValueError, match=message):
        load_small(tmp_path, family).detokenize(torch.zeros(shape, dtype=torch.int64))


def test_titok_as_a_folder_with_a_configuration(tmp_path):
    """PyTorchModelHubMixin writes model.safetensors and config.json, from which nothing is needed."""
    state = small_state("titok")
    (tmp_path / "titok").mkdir()
    safetensors.torch.save_file(state, tmp_path / "titok" / "model.safetensors")
    (tmp_path / "titok" / "config.json").write_text('{"model": {"vq_model": {"num_latent_tokens": 99}}}')
    tokenizer = load_tokenizer(tmp_path / "titok")
    assert tokenizer.token_shape((32, 32)) == (4,)
    assert torch.equal(tokenizer.state_dict()["encoder.latents"], state["latent_tokens"])


def test_omnitokenizer_with_its_namespace_and_losses(tmp_path):
    """Its Lightning file pickles the command line's argparse.Namespace, and holds discriminators and averages."""
    others = {
        "image_discriminator.model0.0.weight": torch.ones(2, 2),
        "perceptual_model.lin0.model.1.weight": torch.ones(2),
        "codebook.N": torch.ones(16),
        "codebook.z_avg": torch.ones(16, 6),
        "encoder.to_patch_emb.2.weight": torch.ones(2, 2),
        "encoder.enc_temporal_transformer.layers.0.1.spatial_rel_pos_bias.net.2.bias": torch.ones(2),
        "encoder.enc_spatial_transformer.layers.1.1.relative_position_index": torch.zeros(16, 16, dtype=torch.int64),
    }
    content = {
        "state_dict": small_state("omnitokenizer") | others,
        "hyper_parameters": {"args": argparse.Namespace(patch_size=8, spatial_pos="rope")},
        "global_step": 7,
    }
    torch.save(content, tmp_path / "imagenet_ucf.ckpt")
    facts = load_tokenizer(tmp_path / "imagenet_ucf.ckpt").checkpoint_facts
    assert facts["global_step"] == 7
    assert facts["ignored_tensors"] == {"codebook": 2, "encoder": 3, "image_discriminator": 1, "perceptual_model": 1}


def test_omnitokenizers_autoencoder_without_a_codebook_is_not_taken_for_it(tmp_path):
    state = {name: value for name, value in small_state("omnitokenizer").items() if not name.startswith("codebook")}
    torch.save({"state_dict": state}, tmp_path / "vae.ckpt")
    with pytest.raises(ValueError, match="neither a checkpoint of ours"):
        load_tokenizer(tmp_path / "vae.ckpt")


def test_vit_vqgan_ignores_the_losses_of_its_lightning_file(tmp_path):
    losses = {"loss.discriminator.blocks.0.weight": torch.ones(2), "loss.perceptual_loss.net.weight": torch.ones(2)}
    torch.save({"state_dict": small_state("vit_vqgan") | losses}, tmp_path / "x.ckpt")
    assert load_tokenizer(tmp_path / "x.ckpt").checkpoint_facts["ignored_tensors"] == {"loss": 2}


def test_bsq_vit_has_averages_in_a_container_of_their_own(tmp_path):
    """Names of both have the prefix of DistributedDataParallel, the averages' a second one of timm's ModelEmaV2."""
    raw = small_state("bsq_vit")
    averages = {name: value + 1 if value.is_floating_point() else value for name, value in raw.items()}
    content = {
        "iter": 3,
        "state_dict": {f"module.{name}": value for name, value in raw.items()},
        "ema_state_dict": {f"module.module.{name}": value for name, value in averages.items()},
        "config": OmegaConf.create({"model": {"params": {"embed_dim": 6, "clamp_range": [-1, 1]}}}),
        "args": argparse.Namespace(use_ema=True),
        "best_fid": np.float64(1.23),
    }
    torch.save(content, tmp_path / "checkpoint.pt")
    for weights, expected in (("ema", averages), ("raw", raw)):
        tokenizer = load_tokenizer(tmp_path / "checkpoint.pt", weights)
        assert tokenizer.checkpoint_facts["weights"] == weights
        assert torch.equal(tokenizer.state_dict()["encoder.out.weight"], expected["quant_embed.weight"])
    torch.save(content | {"ema_state_dict": None}, tmp_path / "without.pt")
    assert load_tokenizer(tmp_path / "without.pt").checkpoint_facts["weights"] == "raw"


def bsq_transform(state, name, features):
    """The authors' blocks by PyTorch's own multi-head attention."""
    width = features.shape[2]

    def parameters(layer):
        return [state[f"{name}.{layer}.{kind}"].double() for kind in ("weight", "bias")]

    features = features + state[f"{name}.positional_embedding"].double()
    features = F.layer_norm(features, (width,), *parameters("ln_pre"))
    for number in range(2):
        block = f"transformer.resblocks.{number}"
        normed = F.layer_norm(features, (width,), *parameters(f"{block}.ln_1")).transpose(0, 1)
        in_proj = [state[f"{name}.{block}.attn.in_proj_{kind}"].double() for kind in ("weight", "bias")]
        out_proj = parameters(f"{block}.attn.out_proj")
        attended, _ = F.multi_head_attention_forward(
            *(normed,) * 3, width, width // 64, *in_proj, None, None, False, 0.0, *out_proj, need_weights=False
        )
        features = features + attended.transpose(0, 1)
        hidden = F.linear(
            F.layer_norm(features, (width,), *parameters(f"{block}.ln_2")), *parameters(f"{block}.mlp.c_fc")
        )
        features = features + F.linear(F.gelu(hidden), *parameters(f"{block}.mlp.c_proj"))
    return F.layer_norm(features, (width,), *parameters("ln_post"))


def test_bsq_vit_follows_the_authors_architecture(tmp_path):
    """There are no goldens of this family: an independent form of its equations stands for them."""
    state = small_state("bsq_vit")
    tokenizer = load_small(tmp_path, "bsq_vit").double()
    image = published.input_image([2, 3, 32, 32])
    patches = F.unfold(image, 8, stride=8).transpose(1, 2)
    features = bsq_transform(state, "encoder", patches @ state["encoder.conv1.weight"].double().T)
    latent = F.linear(features, state["quant_embed.weight"].double(), state["quant_embed.bias"].double())
    assert torch.allclose(tokenizer.encode(image).flatten(2).transpose(1, 2), latent, rtol=0, atol=1e-10)
    bits = ["".join("1" if value > 0 else "0" for value in token) for token in latent.flatten(0, 1).tolist()]
    reconstruction, indices = tokenizer.reconstruct(image)
    assert indices.flatten().tolist() == [int(text, 2) for text in bits]  # the most significant bit first
    codes = torch.where(latent > 0, 1.0, -1.0).double() / 6**0.5
    embedded = F.linear(codes, state["post_quant_embed.weight"].double(), state["post_quant_embed.bias"].double())
    features = bsq_transform(state, "decoder", embedded)
    hidden = F.linear(features, state["decoder.ffn.0.weight"].double(), state["decoder.ffn.0.bias"].double()).tanh()
    pixels = F.linear(hidden, state["decoder.conv_out.weight"].double(), state["decoder.conv_out.bias"].double())
    expected = F.fold(pixels.transpose(1, 2), (32, 32), 8, stride=8)
    assert torch.allclose(reconstruction, expected, rtol=0, atol=1e-10)


def test_bsq_vit_of_36_bits_needs_no_table_of_its_codes(tmp_path):
    state = small_state("bsq_vit", num_bits=36)
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    tokenizer = load_tokenizer(tmp_path / "x.ckpt")
    assert tokenizer.codebook_size == 2**36
    indices = tokenizer.tokenize(published.input_image([1, 3, 32, 32]).float())
    assert int(indices.max()) >= 2**32
    assert tokenizer.detokenize(indices).shape == (1, 3, 32, 32)


def test_the_position_bias_is_that_of_every_pair_of_patches():
    torch.manual_seed(0)
    bias = PositionBias(width=16, num_heads=3).double()
    rows, columns = 3, 5
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    for i, (row, column) in enumerate(cells):
        for j, (other_row, other_column) in enumerate(cells):
            distance = torch.tensor([row - other_row, column - other_column], dtype=torch.float64)
            features = distance.sign() * (distance.abs() + 1).log()
            for layer in (bias[0], bias[2]):
                features = F.leaky_relu(layer(features), 0.1)
            assert torch.allclose(bias((rows, columns))[:, i, j], bias[4](features), rtol=0, atol=1e-12)


def test_cosine_attention_adds_the_bias_to_eight_times_the_cosine():
    torch.manual_seed(0)
    attention = CosineAttention(width=12, num_heads=3, head_width=4, has_bias=True).double()
    torch.nn.init.normal_(attention.query_scale)
    features = torch.randn(2, 3, 4, 12, dtype=torch.float64)
    tokens = features.flatten(1, 2)
    query = attention.query(attention.norm(tokens)).unflatten(2, (3, 4))
    key, value = (part.unflatten(2, (3, 4)) for part in attention.key_value(tokens).chunk(2, dim=-1))
    query, key = F.normalize(query, dim=-1) * attention.query_scale, F.normalize(key, dim=-1) * attention.key_scale
    similarity = 8 * torch.einsum("bihc,bjhc->bhij", query, key) + attention.position_bias((3, 4))
    attended = torch.einsum("bhij,bjhc->bihc", similarity.softmax(dim=-1), value)
    expected = attention.out(attended.flatten(2)).unflatten(1, (3, 4))
    assert torch.allclose(attention(features, None), expected, rtol=0, atol=1e-12)
