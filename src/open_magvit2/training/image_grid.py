"""Pictures of a validation in TensorBoard or W&B: the callback sends what the LightningModule draws."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from open_magvit2.common.arguments import integer


class ImageGrid(Callback):
    """Sends pictures of the first validation batch: always of the same samples, on the weights that are validated.

    It asks the module for them, if the module has this method:

        def pictures(self, batch: Any, number: int) -> dict[str, Tensor]:
            '''Pictures uint8 [3, H, W] on the CPU of the first `number` samples of a batch, by the name to log.'''

    Args:
        num_images: largest number of samples.
    """

    def __init__(self, num_images: int = 8) -> None:
        integer(1, **{"images.num_images": num_images})
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
        is_first = batch_idx == 0 and dataloader_idx == 0 and not trainer.sanity_checking
        if not is_first or not trainer.is_global_zero or not hasattr(pl_module, "pictures"):
            return
        # Uncompiled, as everything in validation: compiling for this number of images would take minutes.
        with trainer.precision_plugin.val_step_context(), torch.compiler.set_stance("force_eager"):
            pictures = pl_module.pictures(batch, self.num_images)
        for logger in trainer.loggers:
            for name, picture in pictures.items():
                if isinstance(logger, pl.loggers.TensorBoardLogger):
                    logger.experiment.add_image(name, picture, trainer.global_step)
                elif isinstance(logger, pl.loggers.WandbLogger):
                    logger.log_image(name, [picture.permute(1, 2, 0).numpy()], step=trainer.global_step)
