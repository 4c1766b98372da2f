"""VQGAN, latent-diffusion, LlamaGen, IBQ and MaskGIT: parity with the authors' code, names both ways, recognition."""

import parity
import published_weights as published
import pytest
import torch

from open_magvit2 import load_tokenizer
from open_magvit2.common import construction
from open_magvit2.evaluation import tokenizers
from open_magvit2.evaluation.tokenizers import _recognition

# golden -> (manifest, family, which weights, value range of its networks, millions of parameters)
GOLDENS = {
    "vqgan_f16_1024": ("taming_f16_1024", "vqgan", "raw", (-1, 1), 72.14),
    "ldm_vq_f4": ("ldm_vq_f4", "vqgan", "raw", (-1, 1), 55.32),
    "ldm_vq_f8": ("ldm_vq_f8", "vqgan", "raw", (-1, 1), 67.72),
    "ldm_vq_f16": ("ldm_vq_f16", "vqgan", "raw", (-1, 1), 69.59),
    "llamagen_VQ-16": ("llamagen_vq16", "llamagen", "raw", (-1, 1), 71.88),
    "llamagen_VQ-8": ("llamagen_vq8", "llamagen", "raw", (-1, 1), 70.11),
    "maskgit_vqgan": ("maskgit_pt", "maskgit", "raw", (0, 1), 54.52),
    "ibq_1024.raw": ("ibq_16384", "ibq", "raw", (-1, 1), None),
    "ibq_1024.ema": ("ibq_16384", "ibq", "ema", (-1, 1), None),
    "om2_pretrain_16384.raw": ("om2_pretrain_16384", "open_magvit2", "raw", (-1, 1), 115.09),
    "om2_pretrain_16384.ema": ("om2_pretrain_16384", "open_magvit2", "ema", (-1, 1), 115.09),
}
# The suite runs one of each family's levels and options; the others are the same code at other sizes.
QUICK = ("ldm_vq_f8", "llamagen_VQ-16", "maskgit_vqgan", "ibq_1024.ema")
# manifest -> (family, codes, millions of parameters)
MANIFESTS = {
    "taming_f16_1024": ("vqgan", 1024, 72.14),
    "taming_f16_16384": ("vqgan", 16384, 76.07),
    "ldm_vq_f4": ("vqgan", 8192, 55.32),
    "ldm_vq_f8": ("vqgan", 16384, 67.72),
    "ldm_vq_f16": ("vqgan", 16384, 69.59),
    "llamagen_vq8": ("llamagen", 16384, 70.11),
    "llamagen_vq16": ("llamagen", 16384, 71.88),
    "maskgit_pt": ("maskgit", 1024, 54.52),
    "ibq_16384": ("ibq", 16384, 110.98),
    "ibq_pretrain_16384": ("ibq", 16384, 110.98),
}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "spec" / "published"


def codebook(golden: str) -> dict[str, tuple[int, ...]]:
    """The goldens of IBQ are of 1,024 codes, the manifest has 16,384."""
    names = ("quantize.embedding.weight", "model_ema.quantizeembeddingweight")
    return dict.fromkeys(names, (1024, 256)) if golden.startswith("ibq") else {}


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in GOLDENS])
def test_full_models_compute_what_the_authors_code_computes(folder, tmp_path, name):
    """In float64 to 1e-9, indices equal; the goldens' probes are rounded to 1e-10."""
    model, family, weights, value_range, millions = GOLDENS[name]
    torch.save({"state_dict": published.whole_state(folder, model, codebook(name))}, tmp_path / "file.ckpt")
    tokenizer = load_tokenizer(tmp_path / "file.ckpt", weights)
    parity.check_golden(folder, name, tokenizer, value_range)
    assert tokenizer.checkpoint_facts["weights"] == weights
    if millions is not None:
        assert sum(p.numel() for p in tokenizer.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert tokenizers.load(family, tmp_path / "file.ckpt", weights=weights).codebook_size == tokenizer.codebook_size


@pytest.mark.parametrize("model", MANIFESTS)
def test_every_published_name_is_one_tensor_of_ours_or_in_the_list_of_the_ignored(folder, model):
    family_name, num_codes, millions = MANIFESTS[model]
    tokenizer = parity.check_names(folder, model, family_name)
    assert tokenizer.codebook_size == num_codes
    assert sum(p.numel() for p in tokenizer.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_our_own_published_files_are_no_other_familys(folder):
    for path in folder.glob("om2_*.txt"):
        state = dict.fromkeys(published.whole_manifest(folder, path.stem))
        assert not [name for name, family in _recognition.families().items() if family.fits(state)], path.stem


@pytest.fixture(scope="module")
def small_vqgan() -> dict[str, torch.Tensor]:
    """A small state dict in taming's names: two levels, attention at the second."""
    return small_state("quantize.embedding.weight", (16, 4))


def small_state(codebook_name: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    family = _recognition.families()["vqgan"]
    sizes = {
        "latent_channels": 4,
        "channels": 32,
        "channel_multipliers": (1, 2),
        "attention_levels": (1,),
        "bias": True,
    }
    sizes |= {"num_middle_blocks": 2, "middle_attention": True, "bottleneck_channels": 8}
    encoder = {**sizes, "num_residual_blocks": 2, "downsampling": "strided_uncentred", "head_kernel": 3}
    decoder = {**sizes, "num_residual_blocks": 3, "upsampling": "nearest"}
    room = "open_magvit2.image_tokenizer"
    quantizer = {"codebook_size": shape[0], "latent_channels": shape[1]}
    parts = {
        "encoder": {"class_path": f"{room}.encoder.Encoder", "init_args": encoder},
        "decoder": {"class_path": f"{room}.decoder.Decoder", "init_args": decoder},
        "quantizer": {"class_path": "open_magvit2.quantizers.vector.VectorQuantizer", "init_args": quantizer},
    }
    model = construction.build({"class_path": f"{room}.model.ImageTokenizer", "init_args": parts})
    names = {family.published_name(name, {}): value for name, value in model.state_dict().items()}
    names = {codebook_name if name == "quantize.embedding.weight" else name: value for name, value in names.items()}
    return {name: published.tensor(name, tuple(value.shape)) for name, value in names.items()}


def save(path, state):
    torch.save({"state_dict": state}, path)
    return path


def test_sizes_and_attention_are_read_off_the_tensors(tmp_path, small_vqgan):
    tokenizer = load_tokenizer(save(tmp_path / "x.ckpt", small_vqgan))
    assert tokenizer.encoder.attention_levels == (1,)
    assert (tokenizer.encoder.num_residual_blocks, tokenizer.decoder.num_residual_blocks) == (2, 3)
    assert (tokenizer.encoder.bottleneck_channels, tokenizer.encoder.latent_channels) == (8, 4)
    assert tokenizer.token_shape((32, 64)) == (16, 32)
    assert tokenizer.checkpoint_facts["weights"] == "raw"  # asked for averages, which the family does not have
    assert tokenizer.checkpoint_facts["checkpoint_format"] == "VQGAN"


def test_the_gumbel_quantizer_takes_the_largest_logit_without_noise(tmp_path):
    state = small_state("quantize.embed.weight", (16, 4))
    state |= {name: published.tensor(name, shape) for name, shape in GUMBEL.items()}
    tokenizer = load_tokenizer(save(tmp_path / "x.ckpt", state)).double()
    image = published.input_image([2, 3, 16, 16])
    latent, indices = tokenizer.encode(image), tokenizer.tokenize(image)
    weight = state["quantize.proj.weight"].double()[:, :, 0, 0]
    logits = torch.einsum("vc,bchw->bhwv", weight, latent) + state["quantize.proj.bias"].double()
    assert torch.equal(indices, logits.argmax(dim=-1))
    assert torch.equal(indices, tokenizer.tokenize(image))
    codes = state["quantize.embed.weight"].double()[indices].movedim(-1, 1)
    assert torch.allclose(tokenizer.detokenize(indices), tokenizer.decode(codes), rtol=0, atol=1e-12)


GUMBEL = {"quantize.proj.weight": (16, 4, 1, 1), "quantize.proj.bias": (16,)}


def test_a_missing_tensor_is_named(tmp_path, small_vqgan):
    state = {name: value for name, value in small_vqgan.items() if name != "decoder.mid.attn_1.k.bias"}
    with pytest.raises(ValueError, match=r"1 missing in the file:\n.*decoder\.middle\.1\.key\.bias"):
        load_tokenizer(save(tmp_path / "x.ckpt", state))


def test_a_file_that_fits_no_family_is_compared_with_the_nearest(tmp_path, small_vqgan):
    state = {name.replace("mid.block_1", "mid.first"): value for name, value in small_vqgan.items()}
    with pytest.raises(ValueError, match=r"nearest is VQGAN, of which 16 names are missing .*mid\.block_1"):
        load_tokenizer(save(tmp_path / "x.ckpt", state))
    with pytest.raises(ValueError, match="neither a checkpoint of ours"):
        load_tokenizer(save(tmp_path / "y.ckpt", {"something.weight": torch.ones(3)}))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("llamagen", r"encoder\.conv_blocks\.0\.res\.0\.conv1\.weight is missing"),
        ("titok", r"encoder\.patch_embed\.weight is missing"),
        ("maskgit", r"26 missing in the file"),
    ],
)
def test_a_family_that_is_asked_for_refuses_a_file_of_another(tmp_path, small_vqgan, family, message):
    with pytest.raises(ValueError, match=message) as refused:
        tokenizers.load(family, save(tmp_path / "x.ckpt", small_vqgan))
    assert str(tmp_path / "x.ckpt") in str(refused.value)
    assert "look like those of VQGAN" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("quantize.embedding.weight", (16,), r"quantize.embedding.weight has the shape \(16,\)"),
        ("quantize.embedding.weight", (16, 5), "same latent_channels"),
        ("encoder.conv_in.weight", (), r"encoder.conv_in.weight has the shape \(\)"),
        ("encoder.conv_in.weight", (0, 3, 3, 3), "unexpected shape"),
        ("encoder.down.0.block.0.conv1.weight", (), r"conv1.weight has the shape \(\)"),
    ],
)
def test_a_shape_that_no_size_can_be_read_off_is_one_error_with_the_path(tmp_path, small_vqgan, name, shape, message):
    with pytest.raises(ValueError, match=message) as refused:
        load_tokenizer(save(tmp_path / "x.ckpt", {**small_vqgan, name: torch.zeros(shape)}))
    assert f"{tmp_path / 'x.ckpt'} cannot be read as VQGAN" in str(refused.value)


def test_averages_in_a_container_of_their_own(tmp_path, small_vqgan):
    averages = {name: value + 1 for name, value in small_vqgan.items()}
    torch.save({"model": small_vqgan, "ema": averages}, tmp_path / "x.pt")
    loaded = {weights: load_tokenizer(tmp_path / "x.pt", weights) for weights in ("ema", "raw")}
    name = "encoder.conv_in.weight"
    assert torch.equal(loaded["ema"].state_dict()[name], averages[name])
    assert torch.equal(loaded["raw"].state_dict()[name], small_vqgan[name])
    assert [loaded[w].checkpoint_facts["weights"] for w in ("ema", "raw")] == ["ema", "raw"]


def test_ibq_without_averages_is_refused_where_they_are_asked_for(folder, tmp_path):
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, (shape, _) in published.whole_manifest(folder, "ibq_16384").items()}
    state = {name: value for name, value in state.items() if not name.startswith("model_ema.")}
    with pytest.raises(ValueError, match=r"no EMA weights \(model_ema\.\*\)"):
        tokenizers._recognition.load(_recognition.families()["ibq"], {"state_dict": state}, "x.ckpt", "ema")
