"""Compiled networks and channels-last weights leave the numbers, the names and the validation of a training alone."""

import copy
import pickle

import lpips
import pytest
import torch
from small_training import data, module, trainer

from benchmarks.subjects import OurTraining
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.evaluation.metrics.ssim import SSIM
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.losses.perceptual import PerceptualLoss
from open_magvit2.training.compilation import compile_networks
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.recomputation import set_recomputation


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test sees another's graphs or settings."""
    with torch._dynamo.config.patch(optimize_ddp=True), torch._functorch.config.patch(donated_buffer=True):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """LPIPS on a random AlexNet: smaller than VGG, of the same kind."""
    torch.manual_seed(0)
    return lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval().requires_grad_(False)


def training(network: torch.nn.Module, dtype: torch.dtype, **options) -> ImageTokenizerTraining:
    """With every loss, and a gradient taken on the way for the adaptive weight."""
    made = module(adversary={"adaptive_weight": True}, **options)
    made.generator_objective.perceptual_weight = 1.0
    made.generator_objective.perceptual = PerceptualLoss(network)
    return made.to(dtype)


def gradients(made: ImageTokenizerTraining) -> dict[str, torch.Tensor]:
    """Of every parameter after a step, by the name that a checkpoint has."""
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    OurTraining(made).step(pixels)
    assert set(made.state_dict()) == set(module().state_dict())
    return {name: parameter.grad for name, parameter in made.named_parameters()}


def largest_difference(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert set(got) == set(expected)
    return max(float((got[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


@pytest.mark.long
def test_compiled_networks_with_recomputation_have_the_same_gradients(network):
    expected = gradients(training(network, torch.float64))
    made = training(network, torch.float64, recompute="blocks")
    compile_networks(*made.networks(), backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    assert largest_difference(gradients(made), expected) < 1e-9
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 5  # the discriminator's has frozen weights, or not


def test_channels_last_has_the_same_gradients(network):
    made = training(network, torch.float64, channels_last=True)
    got = gradients(made)
    assert largest_difference(got, gradients(training(network, torch.float64))) < 1e-9
    weight = made.tokenizer.encoder.levels[0].blocks[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_a_compiled_network_follows_its_weights_and_copies_are_not_compiled():
    tokenizer = module().tokenizer.double()
    compile_networks(tokenizer.decoder, None, backend="aot_eager")
    codes = torch.ones(1, 6, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        tokenizer.decode(codes)
        copied = copy.deepcopy(tokenizer)
        assert copied.decoder._compiled_call_impl is None
        assert pickle.loads(pickle.dumps(tokenizer)).decoder._compiled_call_impl is None
        for mine, other in zip(tokenizer.parameters(), copied.parameters(), strict=True):
            other.mul_(2.0)
            mine.copy_(other)  # as validation brings averaged weights in
        assert torch.allclose(tokenizer.decode(codes), copied.decode(codes), rtol=1e-9, atol=1e-12)


def test_channels_last_trains_on_averages_and_validates(tmp_path):
    run = trainer(tmp_path, max_steps=3, callbacks=[ExponentialMovingAverage(warmup=False)])
    run.fit(module(channels_last=True, metrics=[PSNR(), SSIM()]), data())
    plain = trainer(tmp_path, max_steps=3, callbacks=[ExponentialMovingAverage(warmup=False)])
    plain.fit(module(metrics=[PSNR(), SSIM()]), data())
    for name in ("validation/psnr_image", "validation/ssim_image"):
        assert float(run.callback_metrics[name]) == pytest.approx(float(plain.callback_metrics[name]), rel=1e-3)


@pytest.mark.slow
def test_fused_kernels_of_the_decoder_have_the_same_gradients():
    codes = torch.randn(2, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sign()
    results = []
    for fused in (False, True):
        decoder = module().double().tokenizer.decoder
        if fused:
            set_recomputation(decoder, "blocks")
            compile_networks(decoder.to(memory_format=torch.channels_last))
        loss = decoder(codes).square().mean()
        torch.autograd.grad(loss, decoder.last_layer, retain_graph=True)  # as the adaptive adversarial weight does
        loss.backward()
        results.append({name: parameter.grad for name, parameter in decoder.named_parameters()})
    assert largest_difference(results[1], results[0]) < 1e-9
