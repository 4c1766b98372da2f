"""The entropy of all ranks' average code distribution: DDP's averaged gradient is that of the joint batch."""

import pytest
import torch
import torch.distributed as dist
from processes import process_group, spawn

from open_magvit2.quantizers import entropy
from open_magvit2.quantizers.binary_spherical import BinarySphericalQuantizer
from open_magvit2.quantizers.entropy import codebook_entropy_bound, entropy_penalty
from open_magvit2.quantizers.index_backprop import IndexBackpropagationQuantizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.quantizers.residual import GroupedLookupFreeQuantizer, ResidualLookupFreeQuantizer

QUANTIZERS = {
    "bsq": lambda over_ranks: BinarySphericalQuantizer(8, entropy_over_ranks=over_ranks),
    "residual": lambda over_ranks: ResidualLookupFreeQuantizer(8, entropy_over_ranks=over_ranks),
    "grouped": lambda over_ranks: GroupedLookupFreeQuantizer(8, entropy_over_ranks=over_ranks),
    "ibq": lambda over_ranks: IndexBackpropagationQuantizer(32, 8, entropy_over_ranks=over_ranks),
}
NUM_BITS = {"exact": 11, "chunked": 17, "bound": 12, "each rank": 11, **dict.fromkeys(QUANTIZERS, 8)}


def penalty(kind: str, latent: torch.Tensor, over_ranks: bool) -> torch.Tensor:
    if kind in QUANTIZERS:
        torch.manual_seed(0)  # IBQ's codebook
        losses = QUANTIZERS[kind](over_ranks)(latent).losses
        return losses["sample_entropy"] - losses["codebook_entropy"]
    if kind == "bound":
        return codebook_entropy_bound(latent, 5, over_ranks=over_ranks)
    sample, codebook = entropy_penalty(latent, over_ranks=over_ranks)
    return sample - codebook


def latents(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 24, NUM_BITS[kind], generator=generator, dtype=torch.float64).mul_(0.02)


def value_and_gradient(kind: str, latent: torch.Tensor, over_ranks: bool) -> list[torch.Tensor]:
    """A scale shared by all tokens stands for the network's parameters."""
    scale = torch.ones(NUM_BITS[kind], dtype=torch.float64, requires_grad=True)
    value = penalty(kind, latent * scale, over_ranks)
    value.backward()
    return [value.detach(), scale.grad]


def one_rank(rank: int, world: int, folder) -> None:
    """Value and gradient of every kind as DDP would leave them."""
    chunk = entropy._CHUNK_ELEMENTS
    with process_group(rank, world, folder):
        results = {}
        for kind in NUM_BITS:
            entropy._CHUNK_ELEMENTS = 2**13 if kind == "chunked" else chunk
            results[kind] = value_and_gradient(kind, latents(kind)[rank], over_ranks=kind != "each rank")
            for tensor in results[kind]:
                dist.all_reduce(tensor)
                tensor /= world
        if rank == 0:
            torch.save(results, folder / "results.pt")


@pytest.fixture(scope="module")
def over_two_ranks(tmp_path_factory) -> dict[str, list[torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(one_rank, 2, folder)
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("kind", ["exact", "chunked", "bound", *QUANTIZERS])
def test_gradient_over_ranks_is_that_of_the_joint_batch(over_two_ranks, kind):
    value, gradient = over_two_ranks[kind]
    expected_value, expected = value_and_gradient(kind, latents(kind).flatten(0, 1), over_ranks=False)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-11)
    assert (gradient - expected).norm() < 1e-9 * expected.norm()


def test_each_rank_has_its_own_entropy_by_default(over_two_ranks):
    assert not LookupFreeQuantizer(4).entropy_over_ranks
    _, gradient = over_two_ranks["each rank"]
    _, joint = value_and_gradient("each rank", latents("each rank").flatten(0, 1), over_ranks=False)
    assert (gradient - joint).norm() > 0.01 * joint.norm()
