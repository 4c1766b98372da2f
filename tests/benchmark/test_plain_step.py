"""The baseline of the benchmark computes what our training step computes: same losses, same gradients."""

import copy

import pytest
import torch

from open_magvit2.benchmark.our_step import OurTraining
from open_magvit2.benchmark.plain_step import PlainTraining
from open_magvit2.common.images import to_float
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.losses.perceptual import load_lpips
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


def both_after_a_step(
    adaptive: bool,
) -> tuple[dict, dict, torch.nn.Module, torch.nn.Module, PlainTraining, OurTraining]:
    """Losses and networks of the baseline and of ours after one step in float64 on the same images."""
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(LookupFreeQuantizer(9), 8, (1, 2, 2), 1, norm_groups=4, adaptive_normalization=adaptive)
    training = ImageTokenizerTraining(tokenizer, GeneratorObjective(), PatchDiscriminator(4, 2)).double()
    plain_networks = copy.deepcopy(tokenizer), copy.deepcopy(training.discriminator)
    plain = PlainTraining(*plain_networks, load_lpips().double())
    ours = OurTraining(training)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    images = to_float(pixels).double().permute(0, 2, 3, 1)  # [B, H, W, 3]
    return plain.step(images), ours.step(pixels), torch.nn.ModuleList(plain_networks), training, plain, ours


@pytest.mark.usefixtures("random_vgg")
@pytest.mark.parametrize("adaptive", [False, True])
def test_losses_gradients_and_averages_are_equal(adaptive):
    expected, got, networks, training, plain, ours = both_after_a_step(adaptive)
    assert {"generator/perceptual", "generator/adversarial", "discriminator/lecam"} <= set(expected) <= set(got)
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value.item(), rel=1e-9), name
    trained = torch.nn.ModuleList([training.tokenizer, training.discriminator])
    pairs = list(zip(networks.named_parameters(), trained.parameters(), strict=True))
    assert len(pairs) > 40
    for (name, theirs), mine in pairs:
        error = (mine.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-7, f"{name}: {error:.1e}"
    for (_, theirs), mine in zip(plain.averages, ours.averages, strict=True):
        assert torch.allclose(theirs, mine, rtol=1e-9, atol=1e-12)
    statistics = zip(networks[1].named_buffers(), training.discriminator.buffers(), strict=True)
    for (name, theirs), mine in statistics:  # BatchNorm sees reconstructions, images, reconstructions in both
        assert torch.allclose(theirs, mine, rtol=1e-9), name
