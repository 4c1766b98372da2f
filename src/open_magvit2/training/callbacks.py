"""What a training writes beside its losses: images per second, pictures of reconstructions."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from open_magvit2.common import images


class Throughput(Callback):
    """Logs train/images_per_second over all devices, between two of the trainer's log steps, without validation."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._start, self._images = time.monotonic(), 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._reset()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._reset()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["image"]) * trainer.world_size
        if trainer.global_step % trainer.log_every_n_steps == 0:
            rate = self._images / max(time.monotonic() - self._start, 1e-9)
            for logger in trainer.loggers:
                logger.log_metrics({"train/images_per_second": rate}, step=trainer.global_step)
            self._reset()


class ReconstructionImages(Callback):
    """Sends a grid, originals above reconstructions, of the first validation images to TensorBoard or W&B.

    Always the same images, through the same (averaged) weights as the validation figures.

    Args:
        num_images: columns of the grid.
    """

    def __init__(self, num_images: int = 8) -> None:
        self.num_images = num_images

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx > 0 or trainer.sanity_checking or not trainer.is_global_zero:
            return
        pixels = batch["image"][: self.num_images]
        # uncompiled, as everything in validation: these few images would cost minutes of compiling their size
        with trainer.precision_plugin.val_step_context(), torch.compiler.set_stance("force_eager"):
            reconstruction, _ = pl_module.tokenizer.reconstruct(images.to_float(pixels).to(pl_module.dtype))
        self._send(trainer, images.grid([pixels, images.to_uint8(reconstruction)]))

    def _send(self, trainer: pl.Trainer, grid: Tensor) -> None:
        name = "validation/originals_above_reconstructions"
        for logger in trainer.loggers:
            if isinstance(logger, pl.loggers.TensorBoardLogger):
                logger.experiment.add_image(name, grid, trainer.global_step)
            elif isinstance(logger, pl.loggers.WandbLogger):
                logger.log_image(name, [grid.permute(1, 2, 0).numpy()], step=trainer.global_step)
