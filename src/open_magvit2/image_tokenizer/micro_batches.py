"""A device's share of a batch is cut into micro-batches, the images that pass the networks at once."""

from collections.abc import Sequence

from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor


def cut(pixels: Tensor, micro_batch_size: int) -> Sequence[Tensor]:
    """Images [B, 3, H, W] in pieces of micro_batch_size, or in one if there are fewer.

    Raises:
        ValueError: if the last piece would be smaller than the others.
    """
    check_share(len(pixels), micro_batch_size)
    return pixels.split(min(micro_batch_size, len(pixels)))


def check_share(num_images: int, micro_batch_size: int) -> None:
    """Refuse, with a ValueError, a number of images that cannot be cut into equal micro-batches."""
    if num_images > micro_batch_size and num_images % micro_batch_size:
        raise ValueError(
            f"each device gets {num_images} images a step, which is no multiple of micro_batch_size "
            f"{micro_batch_size}: change data.global_batch_size, micro_batch_size or the number of devices"
        )


def check_global_batch(global_batch_size: int, num_devices: int, micro_batch_size: int) -> None:
    """Refuse, as `check_share` does, a global batch that devices cannot cut; warn if none fills a micro-batch."""
    share = global_batch_size // num_devices
    check_share(share, micro_batch_size)
    if share < micro_batch_size:
        rank_zero_warn(
            f"each device gets {share} images a step, fewer than micro_batch_size {micro_batch_size}: the "
            "entropy penalty and BatchNorm see smaller batches than the recipe's"
        )
