"""The precision that was asked for and no other: full float32 where it matters, bfloat16 autocast on request."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]

_CPU_FEATURES = Path("/proc/cpuinfo")


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


@contextmanager
def float32(device_type: str, tf32: bool = False) -> Iterator[None]:
    """Inside, networks run in full float32, or with TF32 products if asked, and by the same algorithms in every run.

    cuDNN's convolutions use TF32 by default; with its benchmark the algorithm may change from run to run; and a
    validation inside a mixed-precision training would run its metric networks in float16. The former settings come
    back after.

    Args:
        device_type: "cuda", "cpu", ...: the device whose autocast is switched off.
        tf32: allow TF32 in matrix products and convolutions.
    """
    # `flags` switches cuDNN itself off unless told otherwise, and then convolutions are slow and know no TF32.
    cudnn = {"enabled": torch.backends.cudnn.enabled, "benchmark": False, "deterministic": True, "allow_tf32": tf32}
    with torch.backends.cudnn.flags(**cudnn), full_precision(device_type):
        if tf32:
            torch.set_float32_matmul_precision("high")
        yield


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context in which the networks of a tokenizer run in fp32, as they are, or under bfloat16 autocast.

    bfloat16 flips the sign of latents near zero: some indices differ (docs/performance.md says how many). Where it is
    slower than float32, a warning says so, once.

    Raises:
        ValueError: for another precision.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision must be fp32 or bf16, got {precision!r}")
    if precision == "bf16":
        _warn_where_slow(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def inference(device: torch.device, precision: Precision = "fp32") -> Iterator[None]:
    """Inside, networks run without graph, in full float32 (without TF32) or under bfloat16 autocast.

    Raises:
        ValueError: for another precision.
    """
    with torch.inference_mode(), float32(device.type), autocast(device, precision):
        yield


def without_bfloat16_units(device: torch.device) -> str | None:
    """The name of a device that multiplies bfloat16 by way of float32; None of others, and where it is not known."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.cuda.get_device_name(device)
    # avx512_bf16 and amx_bf16 of x86, bf16 of Arm
    if device.type == "cpu" and _CPU_FEATURES.is_file() and "bf16" not in _CPU_FEATURES.read_text(encoding="utf-8"):
        return "this CPU"
    return None


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """A half-precision tensor in float32; float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_can_average(average: torch.Tensor, what: str) -> None:
    """Refuse a moving average in 16 bits, where its small steps round to none.

    Raises:
        ValueError: naming what has such an average, and what to do.
    """
    if average.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"{what} has moving averages, which would stand still in {average.dtype}: train in bf16-mixed or 16-mixed "
            "precision, whose averages are float32"
        )


def autocast_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype in which a product of matrices with this tensor runs here: autocast's, or its own."""
    kind = tensor.device.type
    is_cast = torch.is_autocast_enabled(kind) and tensor.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if is_cast else tensor.dtype


@functools.cache
def _warn_where_slow(device: torch.device) -> None:
    if name := without_bfloat16_units(device):
        logger.warning("%s has no bfloat16 units: bf16 will be slower than fp32 (docs/performance.md)", name)
