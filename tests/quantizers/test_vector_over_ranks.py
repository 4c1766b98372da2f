"""The moving codebook of VQ over two ranks: that of the joint batch, and the same on every rank."""

import torch
from processes import process_group, spawn
from torch.testing import assert_close

from open_magvit2.quantizers.vector import VectorQuantizer


def moved(latents: list[torch.Tensor], restart_below: float) -> torch.Tensor:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(12, 3, ema_decay=0.7, restart_below=restart_below)
    for latent in latents:
        quantizer(latent)
    return quantizer.codebook.detach()


def batches() -> torch.Tensor:
    return torch.randn(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(4))  # [steps, ranks or images, C, h, w]


def one_rank(rank: int, world: int, folder) -> None:
    with process_group(rank, world, folder):
        mine = list(batches()[:, rank : rank + 1])
        torch.save([moved(mine, restart) for restart in (0.0, 3.0)], folder / f"{rank}.pt")


def test_two_ranks_move_the_codebook_as_one_with_the_joint_batch(tmp_path):
    spawn(one_rank, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert_close(first[0], moved(list(batches()), 0.0), rtol=0, atol=1e-5)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1]), "restarted codes are those of rank 0"
    assert not torch.equal(first[0], first[1])
