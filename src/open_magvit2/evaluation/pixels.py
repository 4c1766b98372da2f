"""Pixels for metrics and pictures: the same for any batch size, 8-bit in two ways."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from open_magvit2.common.images import to_uint8, to_uint8_truncated


def image_by_image(network: Callable[..., tuple[Tensor | None, ...]], *batches: Tensor) -> tuple[Tensor | None, ...]:
    """Outputs of a network over a batch; on a CPU the images go through it one at a time.

    Convolution libraries choose kernels by the batch size, and kernels round differently: a pixel between two 8-bit
    levels may then fall to either side, which moves PSNR by 1e-7. Single images also stay in a CPU's cache. A GPU is
    slower on single images: there the batch stays whole, and figures of different batch sizes agree to about 1e-7.

    Args:
        network: takes tensors [B, ...] and returns a tuple of tensors [B, ...], or None where it has none.
        batches: its arguments, all of the same length B.
    """
    if batches[0].device.type != "cpu" or len(batches[0]) < 2:
        return network(*batches)
    outputs = [network(*single) for single in zip(*(batch.split(1) for batch in batches), strict=True)]
    return tuple(None if parts[0] is None else torch.cat(parts) for parts in zip(*outputs, strict=True))


# PSNR and SSIM look at the same pixels: each function keeps its last result, until `cache_clear`, for the same two
# tensors. A batch must therefore not be changed in place between two metrics.


@lru_cache(maxsize=1)
def rounded(image: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Originals and outputs float [B, 3, H, W] in [-1, 1] -> uint8, to nearest; 8-bit originals come back exactly."""
    return image_by_image(lambda x, y: (to_uint8(x), to_uint8(y)), image, output)


@lru_cache(maxsize=1)
def truncated(image: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """The same by truncation, as in Open-MAGVIT2's evaluation.py: 95 of the originals' 256 levels lose 1."""
    return image_by_image(lambda x, y: (to_uint8_truncated(x), to_uint8_truncated(y)), image, output)
