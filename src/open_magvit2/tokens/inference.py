"""How networks run when nothing is trained: no graph, and in the precision that was asked for and no other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from open_magvit2.common.precision import Precision, autocast, float32


@contextmanager
def inference(device: torch.device, precision: Precision = "fp32") -> Iterator[None]:
    """Inside, networks run without graph, in full float32 (no TF32 either) or under bfloat16 autocast.

    Raises:
        ValueError: for another precision.
    """
    with torch.inference_mode(), float32(device.type), autocast(device, precision):
        yield
