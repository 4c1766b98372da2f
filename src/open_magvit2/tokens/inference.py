"""How networks run when nothing is trained: no graph, and in the precision that was asked for and no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from open_magvit2.common.precision import full_precision

Precision = Literal["fp32", "bf16"]


@contextmanager
def inference(device: torch.device, precision: Precision = "fp32") -> Iterator[None]:
    """Inside, networks run without graph, in full float32 (no TF32 either) or under bfloat16 autocast.

    bfloat16 flips the sign of latents near zero: some indices differ (docs/performance.md says how many).

    Raises:
        ValueError: for another precision.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision must be fp32 or bf16, got {precision!r}")
    cudnn = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with (
            torch.inference_mode(),
            full_precision(device.type),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = cudnn
