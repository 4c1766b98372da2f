"""Which item goes to which rank at which step, and the random streams behind it: functions of (seed, epoch, index).

The samplers yield keys `epoch * num_samples + index`, which `TransformedDataset` takes apart again. Lightning calls
`set_epoch` on a loader's `sampler` (and on `batch_sampler.sampler`, never on a batch sampler itself), which is why
these are samplers and the loader forms the batches.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from open_magvit2.common.arguments import integer, within


class TrainingSampler(Sampler[int]):
    """A new permutation each epoch, cut into global batches; each rank takes its slice of every one of them.

    A global batch is therefore the same set of images for any number of ranks. The incomplete one at the end of an
    epoch is dropped; the next permutation differs, so no image is left out for good.

    Args:
        num_samples: images in the dataset.
        global_batch_size: images of one training step, over all ranks.
        num_replicas: number of ranks.
        rank: of this process, in [0, num_replicas).
        seed: of the permutations.

    Attributes:
        epoch, start: of the next iteration, and how many of that epoch's images over all ranks are consumed.
        steps_per_epoch: training steps of a whole epoch; fewer than there are images for, to end epochs early.
    """

    def __init__(
        self, num_samples: int, global_batch_size: int, num_replicas: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        integer(0, seed=seed)
        within(0, num_replicas, rank=rank)
        integer(1, global_batch_size=global_batch_size)
        if global_batch_size % num_replicas:
            raise ValueError(
                f"global_batch_size must be a multiple of the number of devices: got {global_batch_size} on "
                f"{num_replicas} device(s). Change global_batch_size, or the number of devices to one that divides it"
            )
        if num_samples < global_batch_size:
            raise ValueError(
                f"the training set holds {num_samples} image(s), fewer than one global batch of {global_batch_size}. "
                f"Lower global_batch_size to at most {num_samples}, or give more images"
            )
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self.steps_per_epoch = num_samples // global_batch_size

    @property
    def batch_size(self) -> int:
        """Images of one training step on this rank."""
        return self.global_batch_size // self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`; nothing changes if it is the current one, so a `start` set before stays."""
        if epoch != self.epoch:
            self.move_to(epoch, start=0)

    def move_to(self, epoch: int, start: int) -> None:
        """Let the next iteration continue `epoch` after its first `start` images (counted over all ranks).

        Counted in images, not steps, so that a run may continue with another number of devices or batch size.
        """
        within(0, self.num_samples, include_high=True, start=start)
        self.epoch = epoch
        self.start = start

    @property
    def num_steps_left(self) -> int:
        """Training steps from `start` to the end of the epoch."""
        end = min(self.num_samples, self.steps_per_epoch * self.global_batch_size)
        return max(0, (end - self.start) // self.global_batch_size)

    def advance(self, num_steps: int) -> None:
        """Move on by so many training steps, over the ends of epochs; never left at the end of one."""
        if num_steps < self.num_steps_left:
            self.start += num_steps * self.global_batch_size
            return
        epochs, steps = divmod(num_steps - self.num_steps_left, self.steps_per_epoch)
        self.move_to(self.epoch + 1 + epochs, steps * self.global_batch_size)

    def __len__(self) -> int:
        """Images this rank gets in a whole epoch, wherever the next iteration starts: Lightning counts with it."""
        return self.num_samples // self.global_batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        num_steps = self.num_steps_left
        order = random_stream("shuffle", self.seed, self.epoch).permutation(self.num_samples)
        order = order[self.start : self.start + num_steps * self.global_batch_size]
        indices = order.reshape(num_steps, self.num_replicas, self.batch_size)[:, self.rank].reshape(-1)
        first_key = self.epoch * self.num_samples
        return (first_key + int(index) for index in indices)


class ValidationSampler(Sampler[int]):
    """Every index exactly once over all ranks, in order, nothing padded; shards differ by one image at most.

    It has no `set_epoch`: validation sees the same samples every time.
    """

    def __init__(self, num_samples: int, num_replicas: int = 1, rank: int = 0) -> None:
        within(0, num_replicas, rank=rank)
        if num_samples < num_replicas:
            raise ValueError(
                f"the validation set holds {num_samples} image(s), fewer than the {num_replicas} device(s) that share "
                "it. Give more images or use fewer devices"
            )
        self.indices = range(rank, num_samples, num_replicas)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def random_stream(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator seeded by `purpose` and numbers >= 0, e.g. `random_stream("shuffle", seed, epoch)`.

    No state is carried from call to call, so what is drawn never depends on workers, ranks, order or resumption.
    The purpose keeps streams with equal numbers apart: the crop of image 0 shares nothing with the shuffle of epoch 0.
    """
    return np.random.default_rng((zlib.crc32(purpose.encode()), *numbers))


class RandomStreams:
    """One stream for every index, six times quicker to get than `random_stream`: a cached image takes as long.

    Stream `index` is the generator of (purpose, numbers) jumped ahead `index` times, as `numpy.random.PCG64.jumped`
    does: a stride of the golden ratio of the period, so that streams neither overlap nor resemble each other.
    """

    _STRIDE = 0x9E3779B97F4A7C15F39CC0605CEDC835  # of numpy's `jumped`

    def __init__(self, purpose: str, *numbers: int) -> None:
        self._generator = random_stream(purpose, *numbers)
        self._start = self._generator.bit_generator.state

    def at(self, index: int) -> np.random.Generator:
        """The generator of an index >= 0, at its beginning; the same object every time, so use it before the next."""
        self._generator.bit_generator.state = self._start
        self._generator.bit_generator.advance(index * self._STRIDE)
        return self._generator
