"""DistributedDataParallel for several devices, without needless traffic between them."""

import logging
from datetime import timedelta
from typing import Literal

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from open_magvit2.common.arguments import above
from open_magvit2.common.construction import PACKAGE, class_path
from open_magvit2.training import lightning_internals

logger = logging.getLogger(__name__)

_AGREEING = (PACKAGE, "torch", "torchvision", "lpips")  # packages whose buffers agree, or may differ


def register_ddp(timeout_minutes: float = 10.0, gradient_compression: Literal["none", "bf16"] = "none") -> None:
    """Replace Lightning's strategy "ddp", which it also takes for several devices by itself.

    Gradients are reduced in place. Buffers are not broadcast (but see `keep_buffers_equal`): BatchNorm's statistics
    stay each device's own, and LeCAM's averages agree already.

    Args:
        timeout_minutes: longest wait for the other devices, longer than a checkpoint takes to write; then training
            fails.
        gradient_compression: "bf16" halves the traffic of float32 gradients, which are then rounded to 8 bits before
            and after the sum.

    Raises:
        ValueError: for a setting out of range.
    """
    above(0, **{"ddp.timeout_minutes": timeout_minutes})
    hooks = {"none": None, "bf16": bf16_compress_hook}
    if gradient_compression not in hooks:
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
        ddp_comm_hook=hooks[gradient_compression],
    )


def keep_buffers_equal(trainer: pl.Trainer, module: nn.Module) -> None:
    """Broadcast buffers before every step after all where classes of a user have some, e.g. averages of a codebook.

    Those of this package agree over devices by themselves, but for BatchNorm's statistics.
    """
    owners = [type(part) for part in module.modules() if next(part.buffers(recurse=False), None) is not None]
    others = sorted({class_path(kind) for kind in owners if kind.__module__.partition(".")[0] not in _AGREEING})
    if others and trainer.world_size > 1 and isinstance(trainer.strategy, DDPStrategy):
        logger.info("the first device's buffers are copied to the others before every step: %s", ", ".join(others))
        lightning_internals.broadcast_buffers(trainer)


def lost_another_process(error: BaseException) -> bool:
    """Whether an error says that another process is gone or late, and nothing about this one."""
    words = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "nccl")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
