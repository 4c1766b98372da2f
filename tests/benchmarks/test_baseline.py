"""The baseline of the benchmark computes what our training step computes: same losses, same gradients."""

import copy
from collections.abc import Callable

import pytest
import torch
from operation_counts import WEIGHT_GRADIENT, of_many_tensors, operation_counts

from benchmarks.baseline import PlainTraining
from benchmarks.subjects import OurTraining
from open_magvit2.common.images import to_float
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.losses.adversarial import Adversary
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.losses.perceptual import load_lpips
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


def both(adaptive: bool = False) -> tuple[PlainTraining, OurTraining]:
    """The baseline and ours, in float64 and with equal weights."""
    torch.manual_seed(0)
    quantizer = LookupFreeQuantizer(9)
    tokenizer = ImageTokenizer.convolutional(quantizer, 8, (1, 2, 2), 1, 4, adaptive_normalization=adaptive)
    training = ImageTokenizerTraining(tokenizer, GeneratorObjective(), Adversary(PatchDiscriminator(4, 2))).double()
    plain_networks = copy.deepcopy(tokenizer), copy.deepcopy(training.adversary.discriminator)
    return PlainTraining(*plain_networks, load_lpips().double()), OurTraining(training)


def steps_on_the_same_images(plain: PlainTraining, ours: OurTraining) -> tuple[Callable[[], dict], Callable[[], dict]]:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    images = to_float(pixels).double().permute(0, 2, 3, 1)  # [B, H, W, 3]
    return lambda: plain.step(images), lambda: ours.step(pixels)


@pytest.mark.usefixtures("random_vgg")
@pytest.mark.parametrize("adaptive", [False, True])
def test_losses_gradients_and_averages_are_equal(adaptive):
    plain, ours = both(adaptive)
    networks, training = torch.nn.ModuleList([plain.tokenizer, plain.discriminator]), ours.training
    expected, got = (step() for step in steps_on_the_same_images(plain, ours))
    assert {"generator/perceptual", "generator/adversarial", "discriminator/lecam"} <= set(expected) <= set(got)
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value.item(), rel=1e-9), name
    trained = torch.nn.ModuleList([training.tokenizer, training.adversary.discriminator])
    pairs = list(zip(networks.named_parameters(), trained.parameters(), strict=True))
    assert len(pairs) > 40
    for (name, theirs), mine in pairs:
        error = (mine.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-7, f"{name}: {error:.1e}"
    for (_, theirs), mine in zip(plain.averages, ours.averages, strict=True):
        assert torch.allclose(theirs, mine, rtol=1e-9, atol=1e-12)
    statistics = zip(networks[1].named_buffers(), training.adversary.discriminator.buffers(), strict=True)
    for (name, theirs), mine in statistics:  # BatchNorm sees reconstructions, images, reconstructions in both
        assert torch.allclose(theirs, mine, rtol=1e-9), name


@pytest.mark.usefixtures("random_vgg")
def test_modules_are_all_that_lies_on_the_device():
    plain, ours = both()
    theirs, mine = (
        {id(tensor): tensor.nbytes for tensor in (*modules.parameters(), *modules.buffers())}
        for modules in (plain.modules(), ours.modules())
    )
    vgg = {id(tensor) for tensor in ours.training.generator_objective.perceptual.network.parameters()}
    assert vgg <= set(mine)
    # the baseline has the codebook written out; ours has LeCAM's averages in a module
    assert sum(theirs.values()) - plain.quantizer.codes.nbytes == pytest.approx(sum(mine.values()), abs=64)


@pytest.mark.usefixtures("random_vgg")
def test_the_baseline_is_as_slow_as_the_reference():
    plain, ours = both()
    networks = plain.lpips.net, ours.training.generator_objective.perceptual.network.net
    passes = [0, 0]  # of batches through VGG
    for number, network in enumerate(networks):

        def passed(*_, number=number):
            passes[number] += 1

        network.slice1.register_forward_hook(passed)
    slow, fast = (operation_counts(step) for step in steps_on_the_same_images(plain, ours))
    assert passes == [4, 2]  # images and reconstructions, in the baseline for both losses
    tokenizer, discriminator = (
        sum(isinstance(module, torch.nn.Conv2d) for module in network.modules())
        for network in (plain.tokenizer, plain.discriminator)
    )
    assert slow[WEIGHT_GRADIENT] == tokenizer + 3 * discriminator  # a third time for nobody: in the generator's pass
    assert fast[WEIGHT_GRADIENT] == tokenizer + 2 * discriminator
    assert of_many_tensors(slow) == 0
    assert (fast["_fused_adam_"], fast["_foreach_lerp_"]) == (2, 1)  # both networks; the averages of all weights
    assert fast["_softmax"] == 0 < slow["_softmax"]
