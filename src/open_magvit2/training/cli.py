"""The command line of every training: LightningCLI with our callbacks, refusing unknown keys by name."""

import logging
from typing import NoReturn

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

from open_magvit2.training.averaging import ExponentialMovingAverage
from open_magvit2.training.callbacks import ReconstructionImages, Throughput, TrainingCheckpoint
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.progress import TrainingProgress
from open_magvit2.training.skipped_images import SkippedImages

logger = logging.getLogger(__name__)


class _Parser(LightningArgumentParser):
    """Says what is wrong with a value in a few lines, not in pages of usage and configuration."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        noise = ("Does not validate against any", "Subtypes:", "Errors:", "<class 'NoneType'>", "Given value")
        lines = [line for line in message.splitlines() if not any(words in line for words in noise)]
        self.exit(2, "error: " + "\n".join(lines).strip() + "\nAll options: scripts/train.py fit --help\n")


class TrainingCLI(LightningCLI):
    """`fit` and `validate` of any LightningModule and LightningDataModule named in the config.

    The callbacks below are sections of the config of their own, so that a config changes one value of one of them
    without repeating the list: averaging, health, checkpoint, progress, images.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ExponentialMovingAverage, "averaging")
        parser.add_lightning_class_args(TrainingHealth, "health")  # after the averages, which it saves when it stops
        parser.add_lightning_class_args(TrainingCheckpoint, "checkpoint")
        parser.add_lightning_class_args(TrainingProgress, "progress")
        parser.add_lightning_class_args(ReconstructionImages, "images")
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_lightning_class_args(SkippedImages, "skipped_images")

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses ends the program with that one message, not a stack trace."""
        try:
            super().instantiate_classes()
        except (ValueError, OSError) as error:
            logger.debug("where it was refused", exc_info=True)
            self.parser.error(str(error))

    def before_instantiate_classes(self) -> None:
        """A checkpoint to continue from is read without executing code, unless the user says otherwise."""
        if self.subcommand is not None and self.config[self.subcommand].weights_only is None:
            self.config[self.subcommand].weights_only = True

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        arguments = LightningCLI.subcommands()
        return {name: arguments[name] for name in ("fit", "validate")}


def main(args: list[str] | None = None, run: bool = True) -> TrainingCLI:
    """Parse a command line (sys.argv by default), build trainer, model and data, and run the subcommand.

    Args:
        args: the words after the program's name.
        run: False stops after building `trainer`, `model` and `datamodule`; args then have no subcommand.

    Returns:
        the command line with what it built.
    """
    register_strategy()
    return TrainingCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        trainer_defaults={"use_distributed_sampler": False},
        parser_class=_Parser,
        args=args,
        run=run,
    )


def register_strategy() -> None:
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
