"""The record by which a LightningModule tells the callbacks of this package about its training.

A module with an attribute `record: TrainingRecord` that it keeps up to date after every training step gets more from
the progress bar, the health checks and the log. Every field, and the record itself, is optional:

    self.record = TrainingRecord(unit="clips", shown={"loss": "loss"})  # in __init__
    self.record.latest = {"loss": loss.detach()}  # in training_step; stays on the device: the bar reads it seldom
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from torch import Tensor


@dataclass
class TrainingRecord:
    """State of a training after its last step, as callbacks read it in `on_train_batch_end`."""

    unit: str = "samples"  # plural; the throughput is logged as train/<unit>_per_second
    units_per_sample: int = 1  # e.g. the tokens of an image
    latest: Mapping[str, Tensor | float] = field(default_factory=dict)  # this rank's last step, on the device
    shown: Mapping[str, str] = field(default_factory=dict)  # label in the progress bar -> name in `latest`
    logged: Mapping[str, float] = field(default_factory=dict)  # what the last step logged, over all ranks; often empty
    # Norm of each network's gradient, by the network's name: scalars on the device, equal on all ranks, and not finite
    # where the network's step was skipped. `TrainingHealth` counts these.
    gradient_norms: Mapping[str, Tensor] = field(default_factory=dict)
    # With these `TrainingHealth` also watches train/codebook_utilization and train/codebook_entropy_bits in `logged`.
    codebook_size: int | None = None


def record_of(module: pl.LightningModule) -> TrainingRecord:
    """The module's record; an empty one for a module that has none."""
    record = getattr(module, "record", None)
    return record if isinstance(record, TrainingRecord) else TrainingRecord()


def num_samples(batch: Any) -> int:
    """Length of the first tensor in a batch: in a tensor, a mapping or a sequence of those; 0 without a tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else ()
    return next((number for part in parts if not isinstance(part, str) and (number := num_samples(part))), 0)
