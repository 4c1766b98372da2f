"""The command line of every training: LightningCLI with our callbacks, refusing unknown keys by name."""

import inspect
import logging
import os
import pickle
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace, set_parsing_settings
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from open_magvit2.common import construction, environment
from open_magvit2.common.arguments import integer
from open_magvit2.common.distributed import leave_gloo
from open_magvit2.common.logs import show_log
from open_magvit2.training import lightning_internals
from open_magvit2.training.command_messages import essential, message, missing_base, place, refuse_repeated_keys
from open_magvit2.training.data_parallel import keep_buffers_equal, lost_another_process, register_ddp
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.image_grid import ImageGrid
from open_magvit2.training.lightning_options import check_numbers, check_tasks, refuse_options
from open_magvit2.training.progress import TrainingProgress
from open_magvit2.training.resume import continuation
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint, TrainingStopped
from open_magvit2.training.resume.preemption import EXIT_CODE
from open_magvit2.training.resume.state import ExactResumption
from open_magvit2.training.skipped_images import SkippedImages

logger = logging.getLogger(__name__)

# Exit codes, besides 1 and preemption.EXIT_CODE: refused before the first step; stopped because of numbers or data.
MISTAKE, STOPPED = 2, 3
# A section of the configuration each, in the order in which Lightning calls them (`Checkpoint`s last): a section that
# is absent or null leaves its callback out. Health comes after EMA: when it stops, it saves the averages of that step.
CALLBACKS = {
    "ema": ExponentialMovingAverage,
    "health": TrainingHealth,
    "checkpoint": TrainingCheckpoint,
    "resumption": ExactResumption,
    "progress": TrainingProgress,
    "images": ImageGrid,
    "skipped_images": SkippedImages,
}
_MISTAKES = (ValueError, OSError, pickle.UnpicklingError, MisconfigurationException)
# Dump null values too: the argument's name depends on the version.
_IS_RENAMED = tuple(map(int, version("jsonargparse").split(".")[:2])) >= (4, 50)
_WITH_NULL = {"skip_unset" if _IS_RENAMED else "skip_none": False}
_HELP = "\nAll options: scripts/train.py fit --help"
_LOGGER = {  # Lightning's own default, said: a continued run then gets its version, and so its folder
    "class_path": "pytorch_lightning.loggers.TensorBoardLogger",
    "init_args": {"save_dir": ".", "name": "lightning_logs"},
}


class _Parser(LightningArgumentParser):
    """Says what is wrong with a value in a few lines, not in pages of usage and configuration."""

    words: Sequence[str] = ()  # of the command line

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        self.exit(MISTAKE, f"error: {essential(message)}{missing_base(message, self.words)}{_HELP}\n")

    def dump(self, *arguments: Any, **options: Any) -> str:
        """A configuration as text. It was validated when it was parsed, and is not again."""
        return super().dump(*arguments, **{**options, "skip_validation": True})


class _SaveConfig(SaveConfigCallback):
    """Writes config.yaml to the logs, and into every checkpoint the configuration and the program it ran in."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._provenance = {
            "config": self.parser.dump(self.config, **_WITH_NULL),
            "versions": environment.versions(),
            "git": environment.git(),
            "command": environment.command(),
        }

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if trainer.is_global_zero:  # the rank that writes the file
            checkpoint[continuation.PROVENANCE_KEY] = self._provenance

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Report what a continued training does differently; only the user knows whether that was meant."""
        before = checkpoint.get(continuation.PROVENANCE_KEY)
        if before is None or trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        changed = continuation.changes(before["config"], self._provenance["config"])
        if changed:
            logger.warning("changed since the checkpoint was made:\n  %s", "\n  ".join(changed))


class _FirstStep(Callback):
    """Whether a training step has ended: errors before that are mistakes of the configuration."""

    has_stepped = False

    def on_train_batch_end(self, *_: Any) -> None:
        self.has_stepped = True


class TrainingCLI(lightning_internals.CommandLine):
    """`fit` and `validate` of any LightningModule and LightningDataModule named in the configuration.

    The callbacks in `CALLBACKS` are sections of their own, so that a file or a flag changes one value of one of them;
    any other callback goes into trainer.callbacks. Values may refer to others: `${data.init_args.image_size}`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, kind in CALLBACKS.items():
            parser.add_argument(f"--{name}", type=kind | None, default=None, help=kind.__doc__.partition("\n")[0])
        parser.add_function_arguments(register_ddp, "ddp")
        parser.add_argument(
            "--init_from", type=str | None, default=None, help="file of weights to start a new run from"
        )
        parser.add_argument("--init_weights", type=Literal["ema", "raw"], default="ema", help="which of init_from")
        parser.add_argument("--init_discriminator", type=bool, default=False, help="of init_from as well")

    def _section(self, config: Namespace) -> Namespace:
        return config if self.subcommand is None else config[self.subcommand]

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        """Build the trainer with the callbacks whose sections are there, after those of trainer.callbacks."""
        config = self._section(self.config_init)
        described = config.trainer.get("callbacks") or []
        described = described if isinstance(described, list) else [described]
        self._first_step = _FirstStep()
        ours = [config[name] for name in CALLBACKS if config[name] is not None]
        try:
            return super().instantiate_trainer(callbacks=[*described, *ours, self._first_step], **options)
        except RuntimeError as error:  # what Lightning says of SLURM's variables, and of devices
            raise MisconfigurationException(str(error)) from error

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses ends the program with that one message, not a stack trace."""
        try:
            config = self._section(self.config)
            if self.subcommand is not None:
                described = self.subcommand_parser().dump(config, **_WITH_NULL)
                continuation.resolve(config, self.subcommand, described)
            register_ddp(**config.ddp)
            check_numbers(config.trainer)
            super().instantiate_classes()
            check_tasks(self.trainer)
            refuse_options(self.trainer, self.model, config.trainer)
            has_own_sampler = config.trainer.use_distributed_sampler and hasattr(self.datamodule, "global_batch_size")
            if has_own_sampler and self.trainer.world_size > 1:
                raise ValueError(
                    f"trainer.use_distributed_sampler must be false: {type(self.datamodule).__name__} divides its "
                    "samples among the devices by itself"
                )
            if config.init_from is not None and config.get("ckpt_path") is None:  # a continued run has its weights
                if not hasattr(self.model, "initialize_from"):
                    raise ValueError(f"{type(self.model).__name__} has no method initialize_from for --init_from")
                self.model.initialize_from(Path(config.init_from), config.init_weights, config.init_discriminator)
        except _MISTAKES as error:
            self._end(error, MISTAKE)

    def before_instantiate_classes(self) -> None:
        """Read a checkpoint to continue from without executing code, unless the user says otherwise."""
        config = self._section(self.config)
        if self.subcommand is not None and config.weights_only is None:
            config.weights_only = True

    def before_fit(self) -> None:
        """Let matrix products use TF32, as cuDNN's convolutions do by themselves; entropies and metrics do not."""
        torch.set_float32_matmul_precision("high")
        keep_buffers_equal(self.trainer, self.model)
        continuation.keep_csv(self.trainer)

    def run_subcommand(self, subcommand: str) -> None:
        """Run it; what is refused before the first training step ends the program with that one message as well."""
        try:
            super().run_subcommand(subcommand)
            leave_gloo()  # Lightning leaves that group up
        except BaseException as error:
            if isinstance(error, TrainingStopped) or (isinstance(error, SystemExit) and error.code == EXIT_CODE):
                leave_gloo()  # all processes are here: they agreed to stop
            self._leave_processes(error)
            if isinstance(error, TrainingStopped):
                self._end(error, STOPPED)
            if isinstance(error, _MISTAKES) and not self._first_step.has_stepped:
                self._end(error, MISTAKE)
            raise

    def _leave_processes(self, error: BaseException) -> None:
        """Let this process end in its own time, and the others that Lightning's own launcher has started with it."""
        lightning_internals.keep_process_groups_at_exit()
        others = lightning_internals.started_processes(self.trainer)
        if isinstance(error, SystemExit):  # all processes leave after a signal
            others.clear()
        elif lost_another_process(error):
            logger.error(
                "another process is gone, or did not answer within ddp.timeout_minutes (%g): look for its message, or "
                "for one that hangs",
                self._section(self.config).ddp.timeout_minutes,
            )
            time.sleep(2.0)  # the one that failed ends first, and launch.py names it
        else:
            for process in others:  # under NCCL they would wait for this one
                process.kill()

    def _end(self, error: BaseException, code: int) -> NoReturn:
        """End the program with an error's message, once for all ranks that fail alike; a trace only if asked for."""
        if int(os.environ.get("LOCAL_RANK", 0)):
            time.sleep(2.0)  # the first rank ends this one
        if os.environ.get("OPEN_MAGVIT2_TRACEBACK"):
            raise error
        self.parser.exit(code, f"error: {message(error)}{place(error)}{_HELP if code == MISTAKE else ''}\n")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a `${...}` that refers to nothing is refused like any other value."""
        _Parser.words = sys.argv[1:] if args is None else args
        try:
            refuse_repeated_keys(_Parser.words)
            super().parse_arguments(parser, args)
            section = self.config[self.config.subcommand] if "subcommand" in self.config else self.config
            if not isinstance(seed := section.seed_everything, bool):
                integer(0, 2**32 - 1, seed_everything=seed)
        except OmegaConfBaseException as error:  # some are ValueErrors as well
            cause: BaseException | None = error
            while isinstance(cause, OmegaConfBaseException):
                cause = cause.__cause__ or cause.__context__
            parser.error(str(cause if isinstance(cause, ValueError) else error))
        except ValueError as error:
            parser.error(str(error))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        arguments = LightningCLI.subcommands()
        return {name: arguments[name] for name in ("fit", "validate")}


def _attribute_of(part: DictConfig, name: str) -> Any:
    """`${attribute_of:${a.part},name}` in a YAML: an attribute of what a part's class path and arguments would build.

    Parts must agree in numbers that only one of them knows, e.g. the latent channels of a quantizer of 5 levels.
    """
    kind = construction.import_class(part.class_path)
    arguments = OmegaConf.to_container(part.get("init_args") or OmegaConf.create())
    try:
        with torch.device("meta"):  # takes no memory
            built = kind(**arguments)
    except (NotImplementedError, RuntimeError):  # its constructor computes with the values of tensors
        built = kind(**arguments)
    return getattr(built, name)


def main(args: list[str] | None = None, run: bool = True) -> TrainingCLI:
    """Parse a command line (sys.argv by default), build trainer, model and data, and run the subcommand.

    `run=False` stops after building `trainer`, `model` and `datamodule`; args then have no subcommand.
    """
    show_log()
    register_ddp()
    lightning_internals.keep_limits_whole()
    # OmegaConf 2.4 renamed the function; before, the new name was another function
    is_new = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
    register = OmegaConf.register_resolver if is_new else OmegaConf.register_new_resolver
    register("attribute_of", _attribute_of, replace=True)
    # Sections of callbacks hold arguments alone, no class path; `${a.b}` is the same key with and without a subcommand.
    set_parsing_settings(subclasses_disabled=list(CALLBACKS.values()), omegaconf_absolute_to_relative_paths=True)
    mode = {"parser_mode": "omegaconf+"}
    return TrainingCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=_SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        trainer_defaults={"logger": _LOGGER},
        auto_configure_optimizers=False,  # --optimizer, --lr_scheduler: modules have their own
        parser_class=_Parser,
        parser_kwargs={**mode, **{name: dict(mode) for name in TrainingCLI.subcommands()}},
        args=args,
        run=run,
    )
