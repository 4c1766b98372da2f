"""The entropy of all ranks' average code distribution: DDP's averaged gradient is that of the joint batch."""

import pytest
import torch
import torch.distributed as dist
from processes import process_group, spawn

from open_magvit2.quantizers.entropy import codebook_entropy_bound, entropy_penalty
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer

NUM_BITS = {"exact": 11, "chunked": 17, "bound": 12}


def penalty(kind: str, latent: torch.Tensor, over_ranks: bool) -> torch.Tensor:
    if kind == "bound":
        return codebook_entropy_bound(latent, 5, over_ranks=over_ranks)
    sample, codebook = entropy_penalty(latent, over_ranks=over_ranks)
    return sample - codebook


def latents(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 24, NUM_BITS[kind], generator=generator, dtype=torch.float64).mul_(0.02)


def one_rank(rank: int, world: int, folder, kind: str, over_ranks: bool) -> None:
    """Value and gradient as DDP would leave them: a shared scale of the latent plays the network's parameter."""
    with process_group(rank, world, folder):
        if kind == "chunked":
            import open_magvit2.quantizers.entropy as entropy

            entropy._CHUNK_ELEMENTS = 2**13
        weight = torch.ones(NUM_BITS[kind], dtype=torch.float64, requires_grad=True)
        value = penalty(kind, latents(kind)[rank] * weight, over_ranks)
        value.backward()
        for tensor in (weight.grad, value.detach()):
            dist.all_reduce(tensor)
            tensor /= world
        if rank == 0:
            torch.save((value.detach(), weight.grad), folder / "result.pt")


@pytest.mark.parametrize("kind", ["exact", "chunked", "bound"])
def test_gradient_over_ranks_is_that_of_the_joint_batch(tmp_path, kind):
    spawn(one_rank, 2, tmp_path, kind, True)
    value, gradient = torch.load(tmp_path / "result.pt")
    weight = torch.ones(NUM_BITS[kind], dtype=torch.float64, requires_grad=True)
    expected = penalty(kind, latents(kind).flatten(0, 1) * weight, over_ranks=False)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-11)
    assert (gradient - weight.grad).norm() < 1e-9 * weight.grad.norm()


def test_each_rank_has_its_own_entropy_by_default(tmp_path):
    assert not LookupFreeQuantizer(4).entropy_over_ranks
    spawn(one_rank, 2, tmp_path, "exact", False)
    _, gradient = torch.load(tmp_path / "result.pt")
    weight = torch.ones(NUM_BITS["exact"], dtype=torch.float64, requires_grad=True)
    joint = penalty("exact", latents("exact").flatten(0, 1) * weight, over_ranks=False)
    joint.backward()
    assert (gradient - weight.grad).norm() > 0.01 * weight.grad.norm()
