"""Evaluation in float32: no autocast, no TF32 unless asked, and the same algorithms in every run."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def float32(device_type: str, tf32: bool = False) -> Iterator[None]:
    """Inside, networks run in full float32, or with TF32 products if asked; the former settings come back after.

    cuDNN's convolutions use TF32 by default, which rounds their inputs to 10 bits of mantissa; with its benchmark the
    algorithm may change from run to run; and a validation inside a mixed-precision training would run its metric
    networks in float16.

    Args:
        device_type: "cuda", "cpu", ...: the device whose autocast is switched off.
        tf32: allow TF32 in matrix products and convolutions.
    """
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with (
            torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=tf32),
            torch.autocast(device_type=device_type, enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
