"""On a CPU, image by image: a batch's size must not move a figure, and what is made of an image stays in the cache."""

from collections.abc import Callable

import torch
from torch import Tensor


def one_by_one(network: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> tuple[Tensor, ...]:
    """Outputs of a network over a batch; on a CPU the images go through it one at a time.

    Convolution libraries choose their kernels by the batch's size, and the kernels round differently: a pixel on the
    edge between two levels then falls to either side, which moves PSNR by 1e-7. A CPU is no slower on single images;
    a GPU is, so there the batch stays whole and figures of different batch sizes agree to about 1e-7.

    Args:
        network: takes [B, ...] tensors and returns a tuple of [B, ...] tensors.
        batches: its arguments, all of one length B.
    """
    if batches[0].device.type != "cpu" or len(batches[0]) < 2:
        return network(*batches)
    outputs = [network(*single) for single in zip(*(batch.split(1) for batch in batches), strict=True)]
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
