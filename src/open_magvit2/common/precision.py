"""Full float32 where it matters: outside autocast and with TF32 (or bf16) matrix products switched off."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Inside, operations run in the dtype of their inputs and float32 matrix products are not shortened.

    `torch.set_float32_matmul_precision("high")`, which trainings usually set, rounds the inputs of a float32
    product to TF32's 10 bits of mantissa. That is harmless in a convolution and fatal in an entropy.

    Args:
        device_type: "cuda", "cpu", ...: the device whose autocast is switched off.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type=device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """A half-precision tensor in float32; float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
