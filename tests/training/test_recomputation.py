"""Recomputation changes memory, and not one bit of the numbers."""

import copy
import pickle

import pytest
import torch

from benchmarks.memory import peak_memory
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.layers.residual import ResidualBlock
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.training.compilation import compile_networks
from open_magvit2.training.recomputation import set_recomputation


def tokenizer(adaptive: bool = True) -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer.convolutional(
        LookupFreeQuantizer(6), 8, (1, 2, 2), 2, norm_groups=4, adaptive_normalization=adaptive
    )


def outcome(level: str, dtype: torch.dtype, autocast: torch.dtype | None, twice: bool) -> list[torch.Tensor]:
    """Reconstruction and all gradients, with a gradient taken in between as the adaptive GAN weight does it."""
    model = tokenizer().to(dtype)
    set_recomputation(model, level)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype) * 2 - 1
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        output = model(image)
        loss = output.reconstruction.float().square().mean() + sum(output.losses.values())
    extra = []
    if twice:
        extra = list(
            torch.autograd.grad(loss, [model.decoder.last_layer, model.encoder.conv_in.weight], retain_graph=True)
        )
    loss.backward()
    return [output.reconstruction.detach(), *extra, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("level", ["activations", "blocks"])
@pytest.mark.parametrize(
    ("dtype", "autocast", "twice"),
    [
        (torch.float64, None, False),
        (torch.float32, None, False),
        (torch.float32, None, True),
        (torch.float32, torch.bfloat16, False),
        (torch.float32, torch.float16, False),
    ],
)
def test_every_number_is_the_same(level, dtype, autocast, twice):
    expected = outcome("none", dtype, autocast, twice)
    for got, value in zip(outcome(level, dtype, autocast, twice), expected, strict=True):
        assert torch.equal(got, value)


def test_convolutions_run_once_more_only_where_blocks_are_recomputed():
    block = ResidualBlock(8, 8, norm_groups=4)
    calls = []
    for name in ("norm1", "conv1", "norm2", "conv2"):
        block.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    expected = {
        "none": [],
        "activations": ["norm2", "norm1"],
        "blocks": ["norm1", "conv1", "norm2", "norm2", "norm1"],
    }
    for level, again in expected.items():
        set_recomputation(block, level)
        output = block(torch.randn(1, 8, 4, 4, requires_grad=True))
        calls.clear()
        output.sum().backward()
        assert calls == again, level


def test_the_decoders_last_activation_is_computed_again_at_every_level():
    decoder = tokenizer(adaptive=False).decoder
    calls = []
    decoder.norm_out.register_forward_hook(lambda *_: calls.append("norm_out"))
    decoder.conv_out.register_forward_hook(lambda *_: calls.append("conv_out"))
    for level in ("none", "activations", "blocks"):
        set_recomputation(decoder, level)
        output = decoder(torch.randn(1, 6, 4, 4))
        calls.clear()
        output.sum().backward()
        assert calls == ["norm_out"], level


def test_each_level_keeps_less():
    model = tokenizer(adaptive=False)
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    model(image).reconstruction.sum().backward()
    kept = {}
    for level in ("none", "activations", "blocks"):
        set_recomputation(model, level)
        outputs = []
        kept[level] = peak_memory(lambda outputs=outputs: outputs.append(model(image))).num_bytes
    assert kept["activations"] < kept["none"] / 2
    assert kept["blocks"] < 0.8 * kept["activations"]


def test_without_gradients_nothing_is_kept_or_repeated():
    block = ResidualBlock(8, 16, norm_groups=4)
    features = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        expected = block(features)
        set_recomputation(block, "blocks")
        assert torch.equal(block(features), expected)


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match=r"recompute must be one of.*blocks.*got 'all'"):
        set_recomputation(tokenizer(), "all")


def test_a_copy_computes_its_own_weights_again_and_a_pickle_runs_without():
    for level in ("none", "activations", "blocks"):
        model = tokenizer()
        set_recomputation(model, level)
        copied, codes = copy.deepcopy(model), torch.ones(1, 6, 4, 4)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.mul_(2.0)
        blocks = [part for part in copied.modules() if isinstance(part, ResidualBlock)]
        assert all(block.first.__self__ is block for block in blocks)
        model(torch.zeros(1, 3, 16, 16)).reconstruction.sum().backward()
        assert all(parameter.grad is None for parameter in copied.parameters())
        unpickled = pickle.loads(pickle.dumps(copied)).decoder(codes)
        assert torch.equal(unpickled, copied.decoder(codes))
        assert not torch.equal(unpickled, model.decoder(codes))


@pytest.mark.long
@pytest.mark.parametrize("level", ["none", "activations", "blocks"])
def test_a_compiled_decoder_with_adaptive_norms_has_the_same_gradients(level):
    codes = torch.randn(2, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sign()
    results = []
    for compiled in (False, True):
        decoder = tokenizer().double().decoder
        set_recomputation(decoder, level)
        if compiled:
            compile_networks(decoder, backend="aot_eager")
        decoder(codes).square().mean().backward()
        results.append([parameter.grad for parameter in decoder.parameters()])
    torch._dynamo.reset()
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-14)
