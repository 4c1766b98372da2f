"""DistributedDataParallel for several devices, without needless traffic between them."""

from datetime import timedelta
from typing import Literal, get_args

from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from open_magvit2.common.arguments import above

GradientCompression = Literal["none", "bf16"]


def register_ddp(timeout_minutes: float = 10.0, gradient_compression: GradientCompression = "none") -> None:
    """Replace Lightning's strategy "ddp", which it also takes for several devices by itself.

    Gradients are reduced in place. Buffers are not broadcast: BatchNorm's statistics stay each device's own, and
    LeCAM's averages agree already.

    Args:
        timeout_minutes: longest wait for the other devices in a collective operation; then training fails. Must exceed
            the time in which a checkpoint is written.
        gradient_compression: dtype in which gradients are sent: "none", their own; "bf16", half of float32's traffic,
            rounded to 8 bits before and after the sum.

    Raises:
        ValueError: for a setting out of range.
    """
    above(0, **{"ddp.timeout_minutes": timeout_minutes})
    if gradient_compression not in get_args(GradientCompression):
        raise ValueError(f"ddp.gradient_compression must be none or bf16, got {gradient_compression!r}")
    StrategyRegistry.register(
        "ddp",
        DDPStrategy,
        description="DistributedDataParallel, no buffer broadcast, gradients reduced in place",
        override=True,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        start_method="popen",
        timeout=timedelta(minutes=timeout_minutes),
        ddp_comm_hook=bf16_compress_hook if gradient_compression == "bf16" else None,
    )


def lost_another_process(error: BaseException) -> bool:
    """Whether an error says that another process is gone or late, and nothing about this one."""
    words = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "nccl")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
