"""The DataModule: sources, transforms and order together, as loaders of uint8 batches."""

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from open_magvit2.common.arguments import integer, within
from open_magvit2.data.dataset import Source, TransformedDataset, is_stream
from open_magvit2.data.fast_decoding import FastDecoding
from open_magvit2.data.order import TrainingSampler, ValidationSampler
from open_magvit2.data.sources.image_folder import ImageFolder
from open_magvit2.data.streaming import TransformedStream
from open_magvit2.data.transforms import ResizeCenterCrop, ResizeRandomCrop, Size, height_and_width
from open_magvit2.data.workers import WorkerLoader
from open_magvit2.protocols import Sample

logger = logging.getLogger(__name__)


class ImageDataModule(pl.LightningDataModule):
    """Loaders for training and validation; a batch is a collated `Sample`.

    image uint8 [B, 3, H, W] in [0, 255], label int64 [B], index int64 [B], path and skipped lists of B strings. A
    training batch is what ONE rank consumes in one training step; the LightningModule cuts it into micro-batches and
    normalises it on the device. The trainer must be built with `use_distributed_sampler=False`, since sharding happens
    here. Without a trainer the module acts as a single rank.

    Args:
        train: training images; any class that `Source` describes.
        validation: validation images, likewise; None trains without validation.
        image_size: side of the crops in pixels, or (height, width).
        global_batch_size: images of one training step over all devices; must be a multiple of their number.
        validation_batch_size: images of one validation batch on each device.
        train_transform: what is made of a training image; None for `ResizeRandomCrop(image_size)`.
        validation_transform: what is made of a validation image; None for `ResizeCenterCrop(image_size)`.
        num_workers: loading processes of each device; 0 loads in the training process.
        prefetch_factor: batches each worker keeps ready.
        decoding: of training images in files: "exact", or "fast", which takes fewer CPU seconds and gives the same
            crops at 70 dB PSNR or more (docs/performance.md). Validation is always exact.
        seed: of the order and the transforms' randomness.
        max_skipped_share: of the training images that may turn out unreadable. Each is replaced by another one, named
            in the run's skipped_images.txt and counted as data/skipped; training fails once there are more. Of a stream
            without a length it is the share of the images trained on so far. 0 fails at the first. A validation image
            that cannot be read always fails.

    Attributes:
        replace_unreadable: whether training images are replaced; off until a callback that counts them turns it on, as
            `SkippedImages` does.

    Raises:
        ValueError: for numbers out of range, or a source whose images were resized to another size.
    """

    def __init__(
        self,
        train: Source,
        validation: Source | None,
        image_size: Size,
        global_batch_size: int,
        validation_batch_size: int = 32,
        train_transform: Callable | None = None,
        validation_transform: Callable | None = None,
        num_workers: int = 4,
        prefetch_factor: int = 2,
        decoding: Literal["exact", "fast"] = "exact",
        seed: int = 0,
        max_skipped_share: float = 0.001,
    ) -> None:
        super().__init__()
        integer(1, image_size=image_size, global_batch_size=global_batch_size)
        integer(1, validation_batch_size=validation_batch_size, prefetch_factor=prefetch_factor)
        integer(0, num_workers=num_workers, seed=seed)
        within(0, 1, max_skipped_share=max_skipped_share)
        if decoding not in ("exact", "fast"):
            raise ValueError(f"decoding must be 'exact' or 'fast', got {decoding!r}")
        for name, source in (("train", train), ("validation", validation)):
            if source is not None:
                _check_resized(name, source, image_size)
        self.train = train
        self.validation = validation
        self.image_size = image_size
        self.global_batch_size = global_batch_size
        self.validation_batch_size = validation_batch_size
        self.train_transform = train_transform or ResizeRandomCrop(image_size)
        self.validation_transform = validation_transform or ResizeCenterCrop(image_size)
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.decoding = decoding
        self.seed = seed
        self.max_skipped_share = max_skipped_share
        self.replace_unreadable = False
        self._start = (0, 0, 0)  # epoch, images of it, training steps: where this run began or continued
        self._stream_begins_at = 0  # training step at which the stream began, which may be anew

    @property
    def is_streaming(self) -> bool:
        """Whether the training images come without random access."""
        return is_stream(self.train)

    def setup(self, stage: str) -> None:
        """Refuse a batch size that does not fit the devices or the dataset before anything else starts."""
        if stage == "validate" and self.validation is None:
            raise ValueError("data.init_args.validation is null, expected images to validate on: name a source")
        if stage == "fit" and not self.is_streaming:
            sampler = self._training_sampler()
            steps = sampler.steps_per_epoch
            share = f"{sampler.batch_size} on each of {sampler.num_replicas} devices"
            batch = self.global_batch_size
            logger.info("%d training images, %d steps an epoch of %d images (%s)", len(self.train), steps, batch, share)
        limit = self._limit_train_batches
        if stage == "fit" and self.is_streaming and isinstance(limit, int) and self.trainer.max_epochs != 1:
            raise ValueError(
                f"trainer.limit_train_batches is {limit}, but {type(self.train).__name__} is a stream, which has one "
                "epoch without end: leave it at null, and set trainer.max_steps"
            )

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of one rank's share of a training step, in a new order every epoch; of a stream, without end."""
        if self.is_streaming:
            done = self._start[2] - self._stream_begins_at
            batch_size = self._share_of_batch()
            stream = self._stream(
                self.train, self.train_transform, batch_size, done, True, replace_unreadable=self.replace_unreadable
            )
            return self._loader(stream, batch_size)
        sampler = self._training_sampler()
        sampler.move_to(*self._start[:2])
        images = self.train
        if self.decoding == "fast" and isinstance(images, ImageFolder):
            images = FastDecoding(images, self.image_size)
        dataset = TransformedDataset(images, self.train_transform, self.seed, self.replace_unreadable)
        return self._loader(dataset, sampler.batch_size, sampler, is_persistent=True)

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """This rank's share of the validation images, each exactly once over all ranks, always the same pixels."""
        if self.validation is None:
            return []
        transform, batch_size = self.validation_transform, self.validation_batch_size
        if is_stream(self.validation):
            return self._loader(self._stream(self.validation, transform, batch_size), batch_size)
        dataset = TransformedDataset(self.validation, transform, self.seed)
        return self._loader(dataset, batch_size, ValidationSampler(len(dataset), *self._replicas_and_rank()))

    def state_dict(self) -> dict[str, Any]:
        """Position of the next training step, counted in steps that are over: workers may have loaded far beyond."""
        # Lightning's public loops, but no public name for the number of batches that are over.
        num_steps = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        if self.is_streaming:
            place = {"stream_begins_at": self._stream_begins_at}
        else:
            sampler = self._sampler_after(num_steps)
            place = {"epoch": sampler.epoch, "start": sampler.start}
        return {**place, "steps": num_steps, **self._identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the image after the last one trained on, with another global batch as well.

        Another dataset or seed has another order, in which that image means nothing: then the next epoch begins. A
        stream continues only with the same devices, workers and batch; with others it begins anew.
        """
        # An earlier release, or another kind of source, may have saved less of it.
        now = {key: value for key, value in self._identity.items() if key in state_dict}
        saved = {key: state_dict[key] for key in now}
        steps = state_dict["steps"]
        if self.is_streaming:
            self._start, self._stream_begins_at = (0, 0, steps), state_dict["stream_begins_at"]
            if now != saved:
                self._stream_begins_at = steps
                logger.warning(
                    "the stream is another one or was divided otherwise (saved %s, now %s) and begins anew: images "
                    "that were seen may be seen again",
                    saved,
                    now,
                )
            return
        sampler = self._training_sampler()
        if now == saved:
            sampler.move_to(state_dict["epoch"], state_dict["start"])
            sampler.advance(0)
        else:
            logger.warning(
                "the checkpoint was made on other data (saved %s, now %s): the rest of its epoch %d is dropped and the "
                "next one begins",
                saved,
                now,
                state_dict["epoch"],
            )
            sampler.move_to(state_dict["epoch"] + 1, 0)
        self._start = (sampler.epoch, sampler.start, steps)

    def epoch_and_batch(self, num_steps: int) -> tuple[int, int]:
        """The epoch after so many training steps, and how many of its batches are done, as Lightning counts them."""
        if self.is_streaming:
            return 0, num_steps
        sampler = self._sampler_after(num_steps)
        return sampler.epoch, sampler.steps_per_epoch - sampler.num_steps_left

    def _sampler_after(self, num_steps: int) -> TrainingSampler:
        """The training sampler where it stands after so many steps of the whole run."""
        epoch, start, steps_before = self._start
        sampler = self._training_sampler()
        sampler.move_to(epoch, start)
        sampler.advance(num_steps - steps_before)
        return sampler

    @cached_property
    def _files(self) -> dict[str, str]:
        return self.train.identity() if hasattr(self.train, "identity") else {}

    @property
    def _identity(self) -> dict[str, Any]:
        """Arguments of the images' order, apart from the epoch; of a stream, its division."""
        if self.is_streaming:
            num_parts = self._replicas_and_rank()[0] * max(1, self.num_workers)
            division = {"batch_size": self._share_of_batch(), "num_parts": num_parts}
            return {"seed": self.seed, **division, **self._files}
        return {"num_samples": self._num_samples(), "seed": self.seed, **self._files}

    def _num_samples(self) -> int:
        return len(self.train) * getattr(self.train_transform, "views", 1)

    def _share_of_batch(self) -> int:
        num_replicas, _ = self._replicas_and_rank()
        if self.global_batch_size % num_replicas:
            raise ValueError(
                f"global_batch_size must be a multiple of the {num_replicas} devices, got {self.global_batch_size}"
            )
        return self.global_batch_size // num_replicas

    def _training_sampler(self) -> TrainingSampler:
        sampler = TrainingSampler(self._num_samples(), self.global_batch_size, *self._replicas_and_rank(), self.seed)
        steps, limit = sampler.steps_per_epoch, self._limit_train_batches
        sampler.steps_per_epoch = min(steps, limit) if isinstance(limit, int) else int(steps * limit)
        if sampler.steps_per_epoch == 0:
            raise ValueError(f"trainer.limit_train_batches {limit} of an epoch's {steps} training steps leaves none")
        return sampler

    @property
    def _limit_train_batches(self) -> int | float:
        """Lightning's option to end epochs early: a number of batches, or a share of them."""
        return getattr(self.trainer, "limit_train_batches", 1.0)

    def _replicas_and_rank(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _stream(
        self, source: Any, transform: Callable, batch_size: int, *progress: Any, **options: Any
    ) -> TransformedStream:
        num_replicas, rank = self._replicas_and_rank()
        return TransformedStream(source, transform, self.seed, rank, num_replicas, batch_size, *progress, **options)

    def _loader(
        self, dataset: Any, batch_size: int, sampler: Any = None, is_persistent: bool = False
    ) -> DataLoader[Sample]:
        # Workers run torch on one thread by PyTorch's own doing, and draw nothing from their global generators.
        return WorkerLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # its own: a loader must not draw from the global one, which a resume restores
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            persistent_workers=self.num_workers > 0 and is_persistent,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


def _check_resized(name: str, source: Any, image_size: Size) -> None:
    """Refuse a source whose images were resized to another size, also one inside a mixture or a concatenation."""
    for part in getattr(source, "sources", ()):
        _check_resized(name, part, image_size)
    resized = getattr(source, "image_size", None)
    if resized is not None and height_and_width(resized) != height_and_width(image_size):
        raise ValueError(
            f"the {name} images were resized to {resized} pixels, expected image_size {image_size}: set image_size to "
            "theirs, or write a cache of this size with scripts/cache_dataset.py"
        )
