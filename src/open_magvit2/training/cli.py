"""The command line of every training: LightningCLI with our callbacks, refusing unknown keys by name."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

from open_magvit2.training.averaging import ExponentialMovingAverage
from open_magvit2.training.callbacks import ReconstructionImages, Throughput
from open_magvit2.training.progress import TrainingProgress


class TrainingCLI(LightningCLI):
    """`fit` and `validate` of any LightningModule and LightningDataModule named in the config.

    The callbacks below are sections of the config of their own, so that a config changes one value of one of them
    without repeating the list: averaging, checkpoint, progress, images.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ExponentialMovingAverage, "averaging")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(TrainingProgress, "progress")
        parser.add_lightning_class_args(ReconstructionImages, "images")
        parser.add_lightning_class_args(Throughput, "throughput")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        arguments = LightningCLI.subcommands()
        return {name: arguments[name] for name in ("fit", "validate")}


def main(args: list[str] | None = None) -> None:
    """Parse a command line (sys.argv by default), build trainer, model and data, and run."""
    _register_strategy()
    TrainingCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        trainer_defaults={"use_distributed_sampler": False},
        args=args,
    )


def _register_strategy(**options: Any) -> None:
    """Make "ddp", which Lightning also picks for several devices, a DDP without needless traffic.

    No buffers are broadcast: BatchNorm's statistics stay each device's own, and LeCAM's averages agree already.
    """
    StrategyRegistry.register(
        "ddp",
        DDPStrategy,
        description="DistributedDataParallel, no buffer broadcast, gradients reduced in place",
        override=True,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        start_method="popen",
    )
