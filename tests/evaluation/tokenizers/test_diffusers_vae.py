"""Autoencoders of diffusers, continuous and with codes, with random weights in the real form of a folder."""

import json

import pytest
import torch
from commands import ROOT, run_here

from open_magvit2 import load_tokenizer

diffusers = pytest.importorskip("diffusers", reason="the extra `compare` is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [32, 32], "norm_num_groups": 8, "latent_channels": 4, "layers_per_block": 1}
    path = tmp_path_factory.mktemp("vae")
    diffusers.AutoencoderKL(**blocks, **sizes).save_pretrained(path)
    return path


def test_it_is_the_mean_of_the_posterior(folder):
    tokenizer = load_tokenizer(folder).double()
    image = torch.rand(2, 3, 16, 32, dtype=torch.float64) * 2 - 1
    latent = tokenizer.tokenize(image)
    assert tuple(latent.shape) == (2, *tokenizer.token_shape((16, 32))) == (2, 8, 16, 4)
    moments = tokenizer.model.quant_conv(tokenizer.model.encoder(image))
    assert torch.allclose(latent.movedim(-1, 1), moments[:, :4], rtol=0, atol=1e-12)
    reconstruction, indices = tokenizer.reconstruct(image)
    assert indices is None
    assert torch.equal(reconstruction, tokenizer.detokenize(latent))
    assert reconstruction.shape == image.shape
    with pytest.raises(ValueError, match="15 x 16"):
        tokenizer.tokenize(image[:, :, :15, :16])


def test_it_is_evaluated_like_a_tokenizer_without_the_figures_of_tokens(folder, tmp_path):
    result = run_here(
        ROOT / "scripts/evaluate.py",
        *("--checkpoint", folder, "--built-in", "4", "--image-size", "16", "--output", tmp_path),
        *("--metrics", "psnr,ssim,codebook_usage,bits_per_pixel"),
    )
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["model"]["family"] == "diffusers_vae"
    assert record["model"]["codebook_size"] is None
    assert {"codebook_usage", "bits_per_pixel"} == record["metrics_absent"].keys()
    assert "psnr_image_4" in record["metrics"] or "psnr_image" in record["metrics"]
    assert "continuous" in (tmp_path / "row.md").read_text()


def test_weights_that_do_not_fit_are_named(folder, tmp_path):
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": 8}))
    with pytest.raises(ValueError, match=r"of another shape.*\n.*conv_out"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"block_out_channels": "wide"}))
    with pytest.raises(ValueError, match=r"config\.json describes no AutoencoderKL"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_latent_diffusions_vq_in_diffusers_names_computes_what_diffusers_computes(tmp_path, levels):
    torch.manual_seed(levels)
    down = ["DownEncoderBlock2D"] * (levels - 1) + ["AttnDownEncoderBlock2D"]
    up = ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * (levels - 1)
    sizes = {"block_out_channels": [32, 64, 96][:levels], "layers_per_block": 2, "latent_channels": 3}
    model = diffusers.VQModel(down_block_types=down, up_block_types=up, num_vq_embeddings=16, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():  # norms, biases and codes as they are after a training
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    tokenizer, model = load_tokenizer(tmp_path).double(), model.double().eval()
    assert tokenizer.checkpoint_facts["family"] == "vqgan"
    assert tokenizer.codebook_size == 16
    image = torch.rand(2, 3, 16, 24, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        latent = model.encode(image).latents
        expected = model.decode(latent).sample
        indices = model.quantize(latent)[2][2].view(2, *latent.shape[2:])
        reconstruction, own = tokenizer.reconstruct(image)
    assert torch.equal(own, indices)
    assert torch.allclose(reconstruction, expected, rtol=0, atol=1e-9)
