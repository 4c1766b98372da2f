"""Exported graphs: the tokenizer's indices and pictures, at sizes and batches they were not traced with."""

import pytest
import torch
from commands import ROOT, run_here
from small_checkpoint import save_small_checkpoint

from open_magvit2 import load_tokenizer
from open_magvit2.common.construction import describe
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.image_tokenizer.export import SUFFIX, export, load, save_published
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.pretrained import TOKENIZER_KEY
from open_magvit2.image_tokenizer.published import published_state
from open_magvit2.image_tokenizer.vision_transformer import TransformerDecoder, TransformerEncoder
from open_magvit2.quantizers.finite_scalar import FiniteScalarQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


@pytest.fixture(params=sorted(SUFFIX), name="form")
def _form(request):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    return request.param


@pytest.mark.long
def test_by_command_line_and_run_without_the_package(tmp_path, form):
    checkpoint = save_small_checkpoint(tmp_path / "small.ckpt")
    done = run_here(
        ROOT / "scripts/export.py", "--checkpoint", checkpoint, "--output", tmp_path / "graphs", "--form", form
    )
    assert done.returncode == 0, done.stderr
    tokenizer = load_tokenizer(checkpoint)
    side = tokenizer.size_rule.multiple[0]
    image = torch.rand(5, 3, 7 * side, 3 * side, generator=torch.Generator().manual_seed(9)) * 2 - 1
    reconstruction, expected = tokenizer.reconstruct(image)
    indices = load(tmp_path / "graphs" / f"tokenize{SUFFIX[form]}")(image)
    assert indices.shape == expected.shape
    assert (indices != expected).sum() <= 1  # a latent at the edge between two codes may fall on either side
    decoded = load(tmp_path / "graphs" / f"detokenize{SUFFIX[form]}")(expected)
    torch.testing.assert_close(decoded, reconstruction, rtol=0, atol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("quantizer", [FiniteScalarQuantizer((5, 4, 3)), LookupFreeQuantizer(6)])
def test_a_row_of_tokens_and_another_quantizer(tmp_path, form, quantizer):
    torch.manual_seed(0)
    sizes = {"latent_channels": quantizer.latent_channels, "patch": 4, "width": 32, "num_heads": 2, "num_blocks": 1}
    sizes |= {"num_latents": 5, "image_size": [16, 24]}
    tokenizer = ImageTokenizer(TransformerEncoder(**sizes), TransformerDecoder(**sizes), quantizer).eval()
    assert export(tokenizer, tmp_path, form).num_indices == 4 * 5


def small_convolutional(**options) -> ImageTokenizer:
    torch.manual_seed(0)
    sizes = {
        "channels": 4,
        "channel_multipliers": (1,),
        "num_residual_blocks": 1,
        "norm_groups": 2,
        "latent_channels": 6,
    }
    return ImageTokenizer(Encoder(**sizes), Decoder(**sizes), LookupFreeQuantizer(6), **options).eval()


def test_networks_of_another_range_of_values(tmp_path):
    exported = export(small_convolutional(image_range=(0.0, 1.0)), tmp_path, "torch")
    assert exported.num_different <= 1
    assert exported.largest_difference < 1e-3


class Constant(Decoder):
    """What it computes depends on something that a graph does not see."""

    def forward(self, codes):
        return super().forward(codes) + float(torch.compiler.is_exporting())


def test_a_graph_that_computes_something_else_is_refused(tmp_path):
    tokenizer = small_convolutional()
    tokenizer.decoder.__class__ = Constant
    with pytest.raises(ValueError, match=r"detokenize.*differ by up to 1\b"):
        export(tokenizer, tmp_path, "torch")


def test_a_continuous_autoencoder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="ImageTokenizer.*got a Identity"):
        export(torch.nn.Identity(), tmp_path)


@pytest.mark.long
def test_a_grid_of_transformer_tokens_of_any_size(tmp_path, form):
    torch.manual_seed(0)
    sizes = {"latent_channels": 6, "patch": 4, "width": 32, "num_heads": 2, "num_blocks": 1}
    tokenizer = ImageTokenizer(TransformerEncoder(**sizes), TransformerDecoder(**sizes), LookupFreeQuantizer(6)).eval()
    assert export(tokenizer, tmp_path, form).num_indices == 2 * 4 + 3 * 5 * 3


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_the_published_form_has_the_names_of_the_reference_and_comes_back(tmp_path, weights):
    torch.manual_seed(0)
    sizes = {"channels": 32, "channel_multipliers": (1, 1), "num_residual_blocks": 1}
    models = [ImageTokenizer.convolutional(LookupFreeQuantizer(6), **sizes) for _ in range(2)]
    states = [{f"tokenizer.{name}": value for name, value in model.state_dict().items()} for model in models]
    content = {TOKENIZER_KEY: describe(models[0]), "state_dict": states[0], "current_model_state": states[1]}
    torch.save(content, tmp_path / "last.ckpt")
    script = ROOT / "scripts/export.py"
    words = ("--checkpoint", tmp_path / "last.ckpt", "--output", tmp_path, "--form", "published")
    assert "raw weights and moving averages" in run_here(script, *words).stdout
    state = torch.load(tmp_path / "published.ckpt", weights_only=True)["state_dict"]
    assert {"encoder.down.0.block.0.conv1.weight", "model_ema.num_updates", "model_ema.decay"} <= state.keys()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    again = load_tokenizer(tmp_path / "published.ckpt", weights, bit_order="least_significant_first")
    ours = load_tokenizer(tmp_path / "last.ckpt", weights)
    for ours_made, published_made in zip(ours.reconstruct(image), again.reconstruct(image), strict=True):
        assert torch.equal(ours_made, published_made)


def test_the_published_form_keeps_the_averages_of_any_file_and_says_where_there_are_none(shared, tmp_path):
    published = shared / "fixtures" / "published_B_tiny.ckpt"
    assert save_published(published, tmp_path / "again.ckpt")
    first, second = (load_tokenizer(path) for path in (published, tmp_path / "again.ckpt"))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    content = torch.load(published, weights_only=True)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith("model_ema.")}
    torch.save(content, tmp_path / "raw.ckpt")
    assert not save_published(tmp_path / "raw.ckpt", tmp_path / "raw_again.ckpt")


@pytest.mark.parametrize("name", ["B_128", "L_256"])
def test_published_names_and_shapes_are_those_of_the_manifest(shared, name):
    with torch.device("meta"):
        size, is_large = {"128": (1, 2, 2, 4), "256": (1, 1, 2, 2, 4)}[name[2:]], name[0] == "L"
        model = ImageTokenizer.convolutional(None, 128, size, 4 if is_large else 2, 32, is_large)
    lines = (shared / "spec" / "published" / f"om2_{name}.txt").read_text().splitlines()
    manifest = {line.split("\t")[0]: line.split("\t")[1] for line in lines if line}
    expected = {n: shape for n, shape in manifest.items() if not n.startswith(("loss.", "model_ema.loss"))}
    state = published_state(model, model)
    assert {n: str(tuple(value.shape)) for n, value in state.items()} == expected


def test_the_published_form_has_32_groups():
    sizes = {"channels": 32, "channel_multipliers": (1, 1), "num_residual_blocks": 1, "norm_groups": 8}
    with pytest.raises(ValueError, match=r"32 groups in every normalization, got \[8\]"):
        published_state(ImageTokenizer.convolutional(LookupFreeQuantizer(6), **sizes))


def test_the_published_form_has_no_other_quantizer():
    with pytest.raises(ValueError, match="FiniteScalarQuantizer"):
        published_state(ImageTokenizer.convolutional(FiniteScalarQuantizer((5, 4)), channels=32))


def test_the_published_form_has_no_other_networks():
    sizes = {"channels": 32, "channel_multipliers": (1, 2), "latent_channels": 6}
    encoder, decoder = Encoder(**sizes, attention_levels=(1,)), Decoder(**sizes, upsampling="nearest")
    with pytest.raises(ValueError, match=r"encoder\.attention_levels.*decoder\.upsampling.*nearest"):
        published_state(ImageTokenizer(encoder, decoder, LookupFreeQuantizer(6)))


def test_another_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="onnx, torch.*tflite"):
        export(ImageTokenizer.convolutional(channels=32).eval(), tmp_path, "tflite")
