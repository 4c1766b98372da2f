"""The DataModule of tokens: shards that scripts/tokenize_images.py has written, in the place of images."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from open_magvit2.data.loading import ImageDataModule
from open_magvit2.data.order import ValidationSampler
from open_magvit2.data.sources.token_shards import TokenSample, TokenShards


class TokenDataModule(ImageDataModule):
    """Loaders of tokens and classes; a batch is a collated `TokenSample`, in the order of images.

    Where the shards hold several views of an image, an epoch shows all of them.

    Args:
        train, validation: folders of scripts/tokenize_images.py; a validation of None trains without.
        global_batch_size: items of one training step over all devices; must be a multiple of their number.
        validation_batch_size: items of one validation batch on each device.
        num_workers: loading processes of each device; 0 loads in the training process.
        prefetch_factor: batches each worker keeps ready.
        seed: of the order.

    Attributes:
        image_size: (H, W) of the images that the tokens were made of.

    Raises:
        FileNotFoundError, ValueError: for folders without tokens, unfinished or damaged ones, or two that were made by
            different tokenizers.
    """

    def __init__(
        self,
        train: str,
        validation: str | None,
        global_batch_size: int,
        validation_batch_size: int = 32,
        num_workers: int = 4,
        prefetch_factor: int = 2,
        seed: int = 0,
    ) -> None:
        self.shards = [TokenShards(folder) for folder in (train, validation) if folder is not None]
        first, second = self.shards[0].index, self.shards[-1].index
        made_by = ("checkpoint_sha256", "weights", "token_shape", "codebook_size")
        different = [name for name in made_by if getattr(first, name) != getattr(second, name)]
        if different:
            texts = ", ".join(f"{name} {getattr(first, name)} and {getattr(second, name)}" for name in different)
            raise ValueError(f"the tokens in {train} and {validation} were made by different tokenizers: {texts}")
        super().__init__(
            self.shards[0],
            None if validation is None else self.shards[1],
            image_size=first.image_size,
            global_batch_size=global_batch_size,
            validation_batch_size=validation_batch_size,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            seed=seed,
        )

    def train_dataloader(self) -> DataLoader[TokenSample]:
        """Batches of one rank's share of a training step, in a new order every epoch."""
        sampler = self._training_sampler()
        sampler.move_to(*self._start[:2])
        return self._loader(_ByKey(self.train), sampler.batch_size, sampler, is_persistent=True)

    def val_dataloader(self) -> DataLoader[TokenSample] | list[DataLoader[TokenSample]]:
        """This rank's share of the validation items, each exactly once over all ranks."""
        if self.validation is None:
            return []
        sampler = ValidationSampler(len(self.validation), *self._replicas_and_rank())
        return self._loader(self.validation, self.validation_batch_size, sampler)


class _ByKey(Dataset[Any]):
    """Items by the sampler's keys, epoch * len + index."""

    def __init__(self, shards: TokenShards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, key: int) -> TokenSample:
        return self.shards[key % len(self.shards)]
