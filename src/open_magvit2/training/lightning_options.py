"""Options of Lightning's Trainer that are refused before a training begins."""

import os

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from open_magvit2.common.arguments import above, integer


def check_numbers(trainer: Namespace) -> None:
    """Refuse numbers by which Lightning would divide later; None means its default.

    Raises:
        ValueError: naming the option.
    """
    for name in ("log_every_n_steps", "check_val_every_n_epoch"):
        if trainer[name] is not None:
            integer(1, **{f"trainer.{name}": trainer[name]})
    if isinstance(trainer.val_check_interval, (int, float)):
        above(0, **{"trainer.val_check_interval": trainer.val_check_interval})


def check_tasks(trainer: pl.Trainer) -> None:
    """Refuse SLURM tasks that would each train alone; Lightning compares their number with several devices only.

    Raises:
        ValueError: with their number.
    """
    is_task = "SLURM_PROCID" in os.environ and not TorchElasticEnvironment.detect() and SLURMEnvironment.detect()
    if is_task and trainer.world_size == 1 < (tasks := int(os.environ["SLURM_NTASKS"])):
        raise ValueError(
            f"srun runs {tasks} tasks, but trainer.devices and trainer.num_nodes make a training on 1 process of each: "
            "set trainer.devices to the tasks of a machine, or run one task"
        )


def refuse_options(trainer: pl.Trainer, model: pl.LightningModule, options: Namespace) -> None:
    """Refuse options of Lightning that a training with its own steps, or on several devices, cannot use.

    Args:
        options: those that the trainer was built with.

    Raises:
        ValueError: naming ours in their place.
    """
    interval = options.val_check_interval
    if trainer.world_size > 1 and not isinstance(interval, (int, float, type(None))):
        raise ValueError(
            f"trainer.val_check_interval is the time {interval}, which the devices' processes would not reach at the "
            "same step: give a number of steps; checkpoint.every_minutes saves by the clock"
        )
    if trainer.gradient_clip_val is not None and hasattr(model, "gradient_clip_norm"):
        raise ValueError(
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}, but this training clips each network's "
            f"gradient by itself: use model.init_args.gradient_clip_norm {trainer.gradient_clip_val}"
        )
    if trainer.accumulate_grad_batches != 1 and hasattr(model, "micro_batch_size"):
        raise ValueError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but one batch is one step here: "
            "set data.init_args.global_batch_size to the images of a step, and model.init_args.micro_batch_size to "
            "those that fit the device at once"
        )
