"""The transformer encoder and decoder: shapes of both kinds of tokens, any quantizer, what a token sees."""

from typing import get_args

import pytest
import torch

from benchmarks.memory import peak_memory
from open_magvit2.common.construction import build, describe
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.image_tokenizer.vision_transformer import TransformerDecoder, TransformerEncoder
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.quantizers.finite_scalar import FiniteScalarQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.training.recomputation import Recomputation

GRID = {"patch": 4, "width": 32, "num_heads": 2, "num_blocks": 2}
ROW = GRID | {"num_latents": 5, "image_size": [16, 24]}


def tokenizer(sizes: dict, quantizer=None) -> ImageTokenizer:
    torch.manual_seed(0)
    quantizer = LookupFreeQuantizer(6) if quantizer is None else quantizer
    sizes = {"latent_channels": quantizer.latent_channels} | sizes
    return ImageTokenizer(TransformerEncoder(**sizes), TransformerDecoder(**sizes), quantizer).eval()


@pytest.mark.parametrize(("sizes", "shape"), [(GRID, (4, 6)), (ROW, (5,))])
@pytest.mark.parametrize("quantizer", [LookupFreeQuantizer(6), FiniteScalarQuantizer((5, 4, 3))])
def test_tokens_of_a_grid_and_of_a_row(sizes, shape, quantizer):
    model = tokenizer(sizes, quantizer)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    reconstruction, indices = model.reconstruct(image)
    assert model.token_shape((16, 24)) == shape
    assert indices.shape == (2, *shape)
    assert reconstruction.shape == image.shape
    assert torch.equal(model.tokenize(image), indices)
    torch.testing.assert_close(model.detokenize(indices), reconstruction)


def test_a_grid_takes_other_sizes_and_a_row_does_not():
    assert tokenizer(GRID).tokenize(torch.zeros(1, 3, 8, 32)).shape == (1, 2, 8)
    with pytest.raises(ValueError, match="16 x 24"):
        tokenizer(ROW).tokenize(torch.zeros(1, 3, 24, 16))


def test_positions_tell_patches_apart_and_every_pixel_reaches_every_token():
    model = tokenizer(GRID).double()
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    latent = model.encode(image)
    rolled = model.encode(image.roll(4, dims=3))
    assert not torch.allclose(rolled, latent.roll(1, dims=3)), "without positions a shift by a patch would shift tokens"
    image[0, 0, 0, 0] += 0.5
    assert ((model.encode(image) - latent).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("sizes", [GRID, ROW])
def test_every_parameter_learns_and_a_checkpoint_rebuilds_it(sizes):
    model = tokenizer(sizes).train()
    output = model(torch.rand(2, 3, 16, 24) * 2 - 1)
    (output.reconstruction.square().mean() + output.losses["commitment"]).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    rebuilt = build(describe(model))
    rebuilt.load_state_dict(model.state_dict())


@pytest.mark.parametrize("sizes", [GRID, ROW])
def test_recomputation_saves_memory_and_changes_no_number(sizes):
    image = torch.rand(8, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    gradients, kept = {}, {}
    for level in get_args(Recomputation):
        model = tokenizer(sizes).double().train()
        ImageTokenizerTraining(model, GeneratorObjective(perceptual_weight=0.0), recompute=level)
        outputs = []
        kept[level] = peak_memory(lambda model=model, outputs=outputs: outputs.append(model(image))).num_bytes
        outputs[0].reconstruction.square().mean().backward()
        gradients[level] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert kept["none"] > 1.2 * kept["activations"] > 1.2 * 1.2 * kept["blocks"], kept
    assert torch.equal(gradients["blocks"], gradients["none"])
    assert torch.allclose(gradients["activations"], gradients["none"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"num_latents": 4}, {"image_size": [16, 16]}, {"num_latents": 4, "image_size": [16, 18]}]
)
def test_a_row_needs_its_image_size_and_a_grid_none(wrong):
    with pytest.raises(ValueError, match="image_size"):
        TransformerEncoder(**GRID | wrong)


def test_it_trains_after_an_evaluation():
    model = tokenizer(GRID)
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        model.eval()(pixels)
    model.train()(pixels).reconstruction.sum().backward()
