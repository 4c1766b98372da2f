"""The parts of a step that are timed do their whole work, forward and backward: by the operations that they run."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from operation_counts import WEIGHT_GRADIENT, of_many_tensors, operation_counts
from torch import nn

from open_magvit2.benchmark import models, step_parts
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator

CPU = torch.device("cpu")
TOY = models.Case("toy", (1, 2), image_size=32, channels=32, num_bits=8)
VGG_CONVOLUTIONS, LPIPS_HEADS = 13, 5
BACKWARD = "backward passes"


def convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


def convolved(counts: Counter[str]) -> tuple[int, int, int]:
    """Convolutions forward, backward, and those of the latter that make a weight's gradient."""
    return counts["convolution"], counts["convolution_backward"], counts[WEIGHT_GRADIENT]


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """Operations of every part, and under BACKWARD how often it asks for gradients: of ours and of the baseline."""
    steps, plain = models.make_ours(TOY, CPU), models.make_plain(TOY, CPU)
    pixels, images = models.loaded(2, TOY.image_size, CPU)
    steps.step(pixels)
    plain.step(images)
    parts = step_parts.ours(steps, pixels), step_parts.plain(plain, pixels)
    return tuple({name: counted(part) for name, part in one.items()} for one in parts)


def counted(part: Callable[[], Any]) -> Counter[str]:
    with mock.patch.object(torch.autograd, "grad", wraps=torch.autograd.grad) as gradients:
        return operation_counts(part) + Counter({BACKWARD: gradients.call_count})


def test_networks_pass_forward_and_backward(both):
    tokenizer, discriminator = TOY.tokenizer(), PatchDiscriminator()
    for name in ("encoder", "decoder"):
        number = convolutions(getattr(tokenizer, name))
        for parts in both:
            assert convolved(parts[name]) == (number, number, number), name
    # frozen in the generator's pass, its weights' gradients are left out there; then images and reconstructions
    number = convolutions(discriminator)
    for parts, of_weights in zip(both, (2 * number, 3 * number), strict=True):
        assert convolved(parts["discriminator"]) == (3 * number, 3 * number, of_weights)


def test_lpips_passes_once_in_ours_and_twice_in_the_baseline(both):
    ours, plain = (parts["LPIPS"] for parts in both)
    assert convolved(ours) == (2 * VGG_CONVOLUTIONS, VGG_CONVOLUTIONS, 0)  # a layer's distance knows its own gradient
    # the second time, in the discriminator's loss, nobody asks for a gradient
    assert convolved(plain) == (2 * (2 * VGG_CONVOLUTIONS + LPIPS_HEADS), VGG_CONVOLUTIONS + LPIPS_HEADS, 0)


def test_each_part_but_the_last_two_goes_backward(both):
    for parts in both:
        assert {name: counts[BACKWARD] for name, counts in parts.items()} == {
            **dict.fromkeys(("encoder", "quantizer", "decoder", "LPIPS"), 1),
            "discriminator": 2,
            **dict.fromkeys(("optimizers", "averaging"), 0),
        }


def test_quantizers_optimizers_and_averages_work_in_their_own_ways(both):
    ours, plain = both
    for operation in ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"):
        assert (ours["quantizer"][operation], plain["quantizer"][operation]) == (0, 1)
    assert ours["optimizers"]["_fused_adam_"] == 2
    assert ours["averaging"] == {"_foreach_lerp_": 1}
    tensors = len([*TOY.tokenizer().parameters(), *PatchDiscriminator().parameters()])
    for name, operations in (("optimizers", 4), ("averaging", 2)):
        assert of_many_tensors(plain[name]) == 0
        assert plain[name].total() >= operations * tensors  # one tensor at a time
