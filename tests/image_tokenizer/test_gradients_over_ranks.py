"""Two DDP processes with half of the batch each have the gradients of one process with the whole batch.

Exactly so for every term that is a mean over images or tokens, and for the entropy with `entropy_over_ranks`. Not for
what looks at a device's images as a whole: the entropy by default (as published) and BatchNorm in the discriminator.
"""

from pathlib import Path

import pytest
import torch
from processes import process_group, spawn
from small_training import module
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from open_magvit2.training.recomputation import set_recomputation

NUM_IMAGES = 8


class PlainDiscriminator(nn.Sequential):
    """Without BatchNorm."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 2, 1))


class Losses(nn.Module):
    """The training module's sum of objectives as a forward pass, which DDP can wrap."""

    def __init__(self, entropy_over_ranks: bool, batch_norm: bool) -> None:
        super().__init__()
        self.training_module = module()
        self.training_module.tokenizer.quantizer.entropy_over_ranks = entropy_over_ranks
        if not batch_norm:
            self.training_module.adversary.discriminator = PlainDiscriminator()
        self.double()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.training_module.losses(image)[0]

    def gradients(self) -> dict[str, torch.Tensor]:
        return {name: parameter.grad.clone() for name, parameter in self.named_parameters()}


CASES = {
    "all terms, entropy over ranks": (True, False),
    "entropy of each rank": (False, False),
    "BatchNorm of each rank": (True, True),
}


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(NUM_IMAGES, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1


def one_rank(rank: int, world: int, folder: Path) -> None:
    with process_group(rank, world, folder):
        results = {}
        for name, options in CASES.items():
            losses = Losses(*options)
            parallel = DistributedDataParallel(losses, broadcast_buffers=False)
            parallel(images().chunk(world)[rank]).backward()
            results[name] = losses.gradients()
        for level in ("activations", "blocks"):
            losses = Losses(*CASES["all terms, entropy over ranks"])
            set_recomputation(losses.training_module.tokenizer, level)
            parallel = DistributedDataParallel(losses, broadcast_buffers=False)
            parallel(images().chunk(world)[rank]).backward()
            results[level] = losses.gradients()
        losses = Losses(*CASES["all terms, entropy over ranks"])
        parallel = DistributedDataParallel(losses, broadcast_buffers=False)
        parallel.register_comm_hook(None, bf16_compress_hook)
        parallel(images().chunk(world)[rank]).backward()
        results["bf16"] = losses.gradients()
        losses = Losses(True, False)
        parallel = DistributedDataParallel(losses, broadcast_buffers=False)
        image = images().chunk(world)[rank]
        parallel(image * float("inf") if rank == 1 else image).backward()
        results["infinite on rank 1"] = losses.gradients()
        if rank == 0:
            torch.save(results, folder / "gradients.pt")


@pytest.fixture(scope="module")
def over_two_ranks(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(one_rank, 2, folder)
    return torch.load(folder / "gradients.pt")


def relative_difference(name: str, over_two_ranks, network: str) -> float:
    losses = Losses(*CASES[name])
    losses(images()).backward()
    vectors = [
        torch.cat([value.flatten() for key, value in gradients.items() if network in key])
        for gradients in (over_two_ranks[name], losses.gradients())
    ]
    return float((vectors[0] - vectors[1]).norm() / vectors[1].norm())


@pytest.mark.parametrize("network", ["tokenizer", "discriminator"])
def test_gradients_are_those_of_the_whole_batch(over_two_ranks, network):
    assert relative_difference("all terms, entropy over ranks", over_two_ranks, network) < 1e-10


def test_the_entropy_of_each_rank_is_another_objective(over_two_ranks):
    assert relative_difference("entropy of each rank", over_two_ranks, "tokenizer") > 1e-3
    assert relative_difference("entropy of each rank", over_two_ranks, "discriminator") < 1e-10


def test_batch_norm_sees_its_own_ranks_images(over_two_ranks):
    assert relative_difference("BatchNorm of each rank", over_two_ranks, "discriminator") > 1e-3


def test_a_loss_that_is_not_finite_on_one_rank_is_seen_by_the_gradient_norms_of_all(over_two_ranks):
    gradients = over_two_ranks["infinite on rank 1"]  # as rank 0 has them
    for network in ("tokenizer", "discriminator"):
        norm = nn.utils.get_total_norm([value for name, value in gradients.items() if network in name])
        assert not norm.isfinite()


@pytest.mark.parametrize("level", ["activations", "blocks"])
def test_recomputation_under_ddp_changes_no_bit(over_two_ranks, level):
    for name, gradient in over_two_ranks["all terms, entropy over ranks"].items():
        assert torch.equal(over_two_ranks[level][name], gradient)


def test_compressed_gradients_are_rounded_to_bf16(over_two_ranks):
    expected, got = over_two_ranks["all terms, entropy over ranks"], over_two_ranks["bf16"]
    assert any(not torch.equal(got[name], expected[name]) for name in expected)
    for name, gradient in expected.items():
        assert torch.equal(got[name], got[name].bfloat16().double())
        assert float((got[name] - gradient).norm() / gradient.norm()) < 2**-7  # half a unit of 8 bits is 2^-9, thrice
