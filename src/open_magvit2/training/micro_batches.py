"""Base of trainings whose step is one batch of the loader, split into micro-batches that fit the device.

Their gradients add up before the optimizers step once: one GPU and 32 GPUs run the same recipe.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from open_magvit2.common import distributed
from open_magvit2.common.arguments import above, integer, within
from open_magvit2.training.optimizers import step_all
from open_magvit2.training.record import TrainingRecord
from open_magvit2.training.schedules import Constant, Schedule
from open_magvit2.training.sharding import is_sharded


class MicroBatchTraining(pl.LightningModule):
    """Base class: it steps the optimizers and logs. A subclass calls `step_optimizers` after its backward passes.

    Args:
        micro_batch_size: samples that pass the networks at once on a device. A larger share of the global batch must
            be a multiple of it.
        learning_rate, betas: of the optimizers.
        schedule: factor on the learning rate by training step; constant by default.
        gradient_clip_norm: largest norm of each network's gradient; None does not clip.

    Raises:
        ValueError: for a number out of range.
    """

    record: TrainingRecord

    def __init__(
        self,
        micro_batch_size: int,
        learning_rate: float,
        betas: tuple[float, float],
        schedule: Schedule | None,
        gradient_clip_norm: float | None,
    ) -> None:
        super().__init__()
        integer(1, micro_batch_size=micro_batch_size)
        above(0, learning_rate=learning_rate)
        within(0, 1, betas=betas)
        if gradient_clip_norm is not None:
            above(0, gradient_clip_norm=gradient_clip_norm)
        self.automatic_optimization = False
        self.micro_batch_size = micro_batch_size
        self.learning_rate, self.betas, self.schedule = learning_rate, tuple(betas), schedule or Constant()
        self.gradient_clip_norm = gradient_clip_norm

    def on_fit_start(self) -> None:
        """Refuse a global batch that the devices cannot split, before the first sample is read."""
        if (global_batch_size := getattr(self.trainer.datamodule, "global_batch_size", None)) is not None:
            split(torch.empty(global_batch_size // self.trainer.world_size), self.micro_batch_size)

    def step_figures(self, step: int) -> dict[str, float]:
        """Further scalars to log after a step, by their full names in the log; the same on all ranks."""
        return {}

    def step_optimizers(
        self, optimizers: Sequence[Any], step: int, scaler: torch.amp.GradScaler | None = None
    ) -> dict[str, Any]:
        """Step them once, and keep the norms of the gradients in the record.

        The learning rate is a function of the step and no state: a run continued with another schedule follows it.

        Returns:
            the learning rate.

        Raises:
            ValueError: for a learning rate that is negative or not finite.
        """
        learning_rate = self.learning_rate * self.schedule(step)
        if not 0 <= learning_rate < math.inf:
            raise ValueError(
                f"{type(self.schedule).__name__} gives a learning rate of {learning_rate} at step {step}, expected a "
                "finite number from 0 on: correct the schedule's arguments"
            )
        self.record.gradient_norms = step_all(optimizers, learning_rate, self.gradient_clip_norm, scaler)
        return {"learning_rate": learning_rate}

    def backward_options(self) -> dict[str, Any]:
        """How the Trainer computes gradients, for `train_on`: backward, gradient_sync, scaler."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return {"backward": self.manual_backward, "gradient_sync": self._gradient_sync, "scaler": scaler}

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients are reduced over the ranks in the backward pass of the last micro-batch only."""
        for network in filter(is_sharded, self.children()):
            network.set_requires_gradient_sync(is_last)
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()

    def log_step(self, terms: dict[str, Any]) -> None:
        """Log means over ranks at Lightning's interval; in between nothing waits for the device.

        `self.log` would count batches from 0, and drop the figures of a window that ends between two intervals.
        """
        step = self.global_step
        scalars = self.step_figures(step)
        if step % self.trainer.log_every_n_steps == 0:  # all leave the device in one transfer
            names = [name for name, term in terms.items() if isinstance(term, Tensor) and term.device == self.device]
            values = torch.stack([terms[name].to(torch.float32) for name in names])
            means = dict(zip(names, distributed.all_reduce_mean(values).tolist(), strict=True))
            scalars |= {f"train/{name}": float(means.get(name, term)) for name, term in terms.items()}
        self.record.latest, self.record.logged = terms, scalars
        for logger in self.loggers if scalars else ():
            logger.log_metrics(scalars, step=step)


def split(samples: Tensor, micro_batch_size: int) -> Sequence[Tensor]:
    """A batch [B, ...] in pieces of micro_batch_size, or in one if it is smaller; ValueError for a smaller last one."""
    number = len(samples)
    if number > micro_batch_size and number % micro_batch_size:
        raise ValueError(
            f"each device gets {number} samples a step, which is no multiple of micro_batch_size "
            f"{micro_batch_size}: change data.global_batch_size, micro_batch_size or the number of devices"
        )
    return samples.split(min(micro_batch_size, number))
