"""Run a network one image at a time on a CPU, so that figures do not depend on the batch size."""

from collections.abc import Callable

import torch
from torch import Tensor


def image_by_image(network: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> tuple[Tensor, ...]:
    """Outputs of a network over a batch; on a CPU the images go through it one at a time.

    Convolution libraries choose kernels by the batch size, and kernels round differently: a pixel between two 8-bit
    levels may then fall to either side, which moves PSNR by 1e-7. Single images also stay in a CPU's cache. A GPU is
    slower on single images: there the batch stays whole, and figures of different batch sizes agree to about 1e-7.

    Args:
        network: takes tensors [B, ...] and returns a tuple of tensors [B, ...].
        batches: its arguments, all of the same length B.
    """
    if batches[0].device.type != "cpu" or len(batches[0]) < 2:
        return network(*batches)
    outputs = [network(*single) for single in zip(*(batch.split(1) for batch in batches), strict=True)]
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
