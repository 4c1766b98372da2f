"""Saves a training that is about to end itself: nothing of it is lost, whatever the reason."""

from pathlib import Path

import pytorch_lightning as pl


def save_before_stopping(trainer: pl.Trainer) -> Path:
    """Write stopped-at-<training step>.ckpt beside the run's checkpoints; a collective call under DDP.

    Returns:
        the file, which the first rank has written.
    """
    checkpoint = trainer.checkpoint_callback
    folder = Path((checkpoint and checkpoint.dirpath) or trainer.default_root_dir)
    path = folder / f"stopped-at-{trainer.global_step}.ckpt"
    trainer.save_checkpoint(path)
    return path
