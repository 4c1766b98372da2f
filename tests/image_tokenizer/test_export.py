"""Exported graphs: the tokenizer's indices and pictures, at sizes and batches they were not traced with."""

import pytest
import torch
from commands import ROOT, run_here
from small_checkpoint import save_small_checkpoint

from open_magvit2 import load_tokenizer
from open_magvit2.image_tokenizer.export import SUFFIX, export, load
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.vision_transformer import TransformerDecoder, TransformerEncoder
from open_magvit2.quantizers.finite_scalar import FiniteScalarQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


@pytest.fixture(params=sorted(SUFFIX), name="form")
def _form(request):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    return request.param


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


@pytest.mark.parametrize("quantizer", [FiniteScalarQuantizer((5, 4, 3)), LookupFreeQuantizer(6)])
def test_a_row_of_tokens_and_another_quantizer(tmp_path, form, quantizer):
    torch.manual_seed(0)
    sizes = {"latent_channels": quantizer.latent_channels, "patch": 4, "width": 32, "num_heads": 2, "num_blocks": 1}
    sizes |= {"num_latents": 5, "image_size": [16, 24]}
    tokenizer = ImageTokenizer(TransformerEncoder(**sizes), TransformerDecoder(**sizes), quantizer).eval()
    assert export(tokenizer, tmp_path, form).num_indices == 4 * 5


def test_a_grid_of_transformer_tokens_of_any_size(tmp_path, form):
    torch.manual_seed(0)
    sizes = {"latent_channels": 6, "patch": 4, "width": 32, "num_heads": 2, "num_blocks": 1}
    tokenizer = ImageTokenizer(TransformerEncoder(**sizes), TransformerDecoder(**sizes), LookupFreeQuantizer(6)).eval()
    assert export(tokenizer, tmp_path, form).num_indices == 2 * 4 + 3 * 5 * 3


def test_another_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="onnx, torch.*tflite"):
        export(ImageTokenizer.convolutional(channels=32).eval(), tmp_path, "tflite")
