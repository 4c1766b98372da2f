"""One DataModule: two datasets, sharded over the ranks, as loaders of uint8 batches."""

import logging
import os
import signal
import threading
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from open_magvit2.data.dataset import ImageDataset, TransformedDataset
from open_magvit2.data.fast_decoding import FastDecoding
from open_magvit2.data.image_folder import ImageFolder
from open_magvit2.data.sampler import TrainingSampler, ValidationSampler
from open_magvit2.data.transforms import TrainingTransform, ValidationTransform
from open_magvit2.protocols import Sample

logger = logging.getLogger(__name__)

_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}  # by which a cluster ends a job
_SECONDS_TO_LOOK_FOR_PARENT = 2.0


class ImageDataModule(pl.LightningDataModule):
    """Loaders for training and validation; a batch is a collated `Sample`.

    image uint8 [B, 3, image_size, image_size] in [0, 255], label int64 [B], index int64 [B], path and skipped lists of
    B strings.
    The images stay uint8 on the host (a quarter of the traffic); the LightningModule normalises them on the device.

    A training batch is what ONE rank consumes in one training step, global_batch_size / number of devices images; the
    LightningModule cuts it into micro-batches that fit its memory. The trainer must be built with
    `use_distributed_sampler=False`, since sharding happens here. Without a trainer the module acts as a single rank.

    Args:
        train: training images.
        validation: validation images.
        image_size: side of the square crops in pixels.
        global_batch_size: images of one training step over all devices; must be a multiple of their number.
        validation_batch_size: images of one validation batch on each device.
        num_workers: loading processes of each device; 0 loads in the training process.
        prefetch_factor: batches each worker keeps ready.
        flip: mirror every second training image.
        decoding: of training images in files: "exact", or "fast", which takes fewer CPU seconds and gives the same
            crops at 70 dB PSNR or more (docs/performance.md). Validation is always exact; built-in and cached images
            have nothing to decode.
        seed: of the order, the crops and the flips.
        max_skipped_share: of the training images that may turn out unreadable. Each is replaced by another one, named
            in the run's skipped_images.txt and counted as data/skipped; training fails once there are more. 0 fails at
            the first. A validation image that cannot be read always fails.

    Attributes:
        replace_unreadable: whether training images are replaced; off until somebody who counts them turns it on, as
            the callback `training.skipped_images.SkippedImages` does.
    """

    def __init__(
        self,
        train: ImageDataset,
        validation: ImageDataset,
        image_size: int,
        global_batch_size: int,
        validation_batch_size: int = 32,
        num_workers: int = 4,
        prefetch_factor: int = 2,
        flip: bool = False,
        decoding: Literal["exact", "fast"] = "exact",
        seed: int = 0,
        max_skipped_share: float = 0.001,
    ) -> None:
        super().__init__()
        for name, value, lowest in (
            ("image_size", image_size, 1),
            ("validation_batch_size", validation_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_factor", prefetch_factor, 1),
            ("seed", seed, 0),
        ):
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
        if not 0.0 <= max_skipped_share < 1.0:
            raise ValueError(f"max_skipped_share must lie in [0, 1), got {max_skipped_share}")
        if decoding not in ("exact", "fast"):
            raise ValueError(f"decoding must be 'exact' or 'fast', got {decoding!r}")
        for name, dataset in (("train", train), ("validation", validation)):
            if dataset.image_size not in (None, image_size):
                raise ValueError(
                    f"the {name} images were resized to {dataset.image_size} pixels, expected image_size {image_size}: "
                    "set image_size to theirs, or write a cache of this size with scripts/cache_dataset.py"
                )
        self.train = train
        self.validation = validation
        self.image_size = image_size
        self.global_batch_size = global_batch_size
        self.validation_batch_size = validation_batch_size
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.flip = flip
        self.decoding = decoding
        self.seed = seed
        self.max_skipped_share = max_skipped_share
        self.replace_unreadable = False
        self._start = (0, 0, 0)  # epoch, images of it, training steps: where this run began or continued

    def setup(self, stage: str) -> None:
        """Refuse a batch size that does not fit the devices or the dataset before anything else starts."""
        if stage == "fit":
            sampler = self._training_sampler()
            logger.info(
                "%d training images, %d steps an epoch of %d images (%d on each of %d devices); %d validation images",
                len(self.train),
                len(sampler) // sampler.batch_size,
                sampler.global_batch_size,
                sampler.batch_size,
                sampler.num_replicas,
                len(self.validation),
            )

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of one rank's share of a training step, in a new order every epoch."""
        sampler = self._training_sampler()
        sampler.move_to(*self._start[:2])
        transform = TrainingTransform(self.image_size, self.flip)
        images = self.train
        if self.decoding == "fast" and isinstance(images, ImageFolder):
            images = FastDecoding(images, self.image_size)
        dataset = TransformedDataset(images, transform, self.seed, self.replace_unreadable)
        return self._loader(dataset, sampler, sampler.batch_size)

    def val_dataloader(self) -> DataLoader[Sample]:
        """This rank's share of the validation images, each exactly once over all ranks, always the same pixels."""
        num_replicas, rank = self._replicas_and_rank()
        sampler = ValidationSampler(len(self.validation), num_replicas, rank)
        transform = ValidationTransform(self.image_size)
        return self._loader(
            TransformedDataset(self.validation, transform, self.seed), sampler, self.validation_batch_size
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the next training step begins, counted in steps that are over: workers may have loaded far beyond."""
        num_steps = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        sampler = self._sampler_after(num_steps)
        return {"epoch": sampler.epoch, "start": sampler.start, "steps": num_steps, **self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the image after the last one trained on, with another global batch as well.

        Another dataset or seed has another order, in which that image means nothing: then the next epoch begins.
        """
        order, saved = self._order(), {key: state_dict[key] for key in self._order()}
        sampler = self._training_sampler()
        if order == saved:
            sampler.move_to(state_dict["epoch"], state_dict["start"])
            sampler.advance(0)
        else:
            logger.warning(
                "the checkpoint was made on other data (saved %s, now %s): the rest of its epoch %d is dropped and the "
                "next one begins",
                saved,
                order,
                state_dict["epoch"],
            )
            sampler.move_to(state_dict["epoch"] + 1, 0)
        self._start = (sampler.epoch, sampler.start, state_dict["steps"])

    def epoch_and_batch(self, num_steps: int) -> tuple[int, int]:
        """The epoch after so many training steps, and how many of its batches are done, as Lightning counts them."""
        sampler = self._sampler_after(num_steps)
        return sampler.epoch, len(sampler) // sampler.batch_size - sampler.num_steps_left

    def _sampler_after(self, num_steps: int) -> TrainingSampler:
        """The training sampler where it stands after so many steps of the whole run."""
        epoch, start, steps_before = self._start
        sampler = self._training_sampler()
        sampler.move_to(epoch, start)
        sampler.advance(num_steps - steps_before)
        return sampler

    def _order(self) -> dict[str, int]:
        """What the order of training images depends on, beside the epoch."""
        return {"num_samples": len(self.train), "seed": self.seed}

    def _training_sampler(self) -> TrainingSampler:
        num_replicas, rank = self._replicas_and_rank()
        return TrainingSampler(len(self.train), self.global_batch_size, num_replicas, rank, self.seed)

    def _replicas_and_rank(self) -> tuple[int, int]:
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def _loader(self, dataset: TransformedDataset, sampler: Sampler[int], batch_size: int) -> DataLoader[Sample]:
        # Workers run torch on one thread by PyTorch's own doing, and draw nothing from their global generators.
        return _Loader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=partial(_obey_the_parent_alone, os.getpid()),
            generator=torch.Generator(),  # its own: a loader must not draw from the global one, see resumption.py
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            persistent_workers=self.num_workers > 0 and isinstance(sampler, TrainingSampler),
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


class _Loader(DataLoader[Sample]):
    """A DataLoader whose workers come to life with the signals blocked that `_obey_the_parent_alone` waits for.

    Between its fork and that function a worker would die of them, and take the training down in the middle of a step.
    """

    def __iter__(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # one that came in between is delivered now


def _obey_the_parent_alone(parent: int, worker: int) -> None:
    """Let a worker ignore SIGTERM and SIGUSR1 of anybody but the training process `parent`, and end when that has.

    A cluster that ends a job signals all its processes, and the training needs its workers to end the step. A handler
    cannot see who sent a signal, waiting for it can. PyTorch's workers look for their parent too, but one whose parent
    was killed right after the fork takes init for it, and would live for ever.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def wait() -> None:
        while os.getppid() == parent:
            received = signal.sigtimedwait(_SIGNALS, _SECONDS_TO_LOOK_FOR_PARENT)
            if received is not None and received.si_signo == signal.SIGTERM and received.si_pid == parent:
                break
        os._exit(0)  # as PyTorch's own handler does

    threading.Thread(target=wait, name="signals", daemon=True).start()
