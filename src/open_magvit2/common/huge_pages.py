"""Tensors on a CPU in memory pages of 2 MiB, where Linux gives them.

A processor fetches ahead within a page. Weights that are read from beginning to end for every token come faster when
there are few pages (on an Intel Xeon 11.4 instead of 8.1 GB/s of one core).
"""

import ctypes
import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

_PAGE = 2**21
_MADV_HUGEPAGE = 14  # of linux/mman.h


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """`torch.empty`, whose memory asks for huge pages if it is large, new, and a Linux machine's."""
    if sys.platform != "linux" or (device is not None and device.type != "cpu"):
        return torch.empty(shape, dtype=dtype, device=device)
    size = math.prod(shape)
    if size * dtype.itemsize < 2 * _PAGE:
        return torch.empty(shape, dtype=dtype)
    memory = torch.empty(size + _PAGE // dtype.itemsize, dtype=dtype)  # room to begin where a page does
    start = -memory.data_ptr() % _PAGE
    values = memory[start // dtype.itemsize :][:size]
    # A refusal changes nothing: the pages are then small.
    ctypes.CDLL(None).madvise(
        ctypes.c_void_p(values.data_ptr()), ctypes.c_size_t(size * dtype.itemsize), _MADV_HUGEPAGE
    )
    return values.view(tuple(shape))
