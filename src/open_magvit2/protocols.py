"""The data flow as types: what one part of the project may expect of another.

    image --encoder--> latent --quantizer--> codes, indices --decoder--> reconstruction --metrics--> numbers

Rooms import these protocols instead of each other, so that a new quantizer, tokenizer or metric needs one new file.
"""

from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

from torch import Tensor


class Sample(TypedDict):
    """One element of a dataset, or a batch of them after collation (a leading dimension B, lists for strings)."""

    image: Tensor  # uint8 [3, H, W], RGB
    label: int  # class index; -1 where the dataset has no classes
    path: str  # where the image comes from, for error messages and reports
    index: int  # position in the dataset: 0 .. len(dataset) - 1
    skipped: str  # files that could not be read and whose place this image takes, "path<tab>cause" a line; mostly ""


class QuantizerOutput(NamedTuple):
    """What a quantizer makes of a latent."""

    codes: Tensor  # [B, C, h, w], the quantized vectors, with a straight-through gradient to the latent
    indices: Tensor  # int64 [B, h, w] in [0, codebook_size)
    losses: dict[str, Tensor]  # named, unweighted scalars; their weights live in the generator objective


class Quantizer(Protocol):
    """Turns a continuous latent into codes and indices. Implementations are `torch.nn.Module`s."""

    latent_channels: int
    codebook_size: int

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent [B, C, h, w] and compute the losses that train it."""

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, C, h, w] and indices [B, h, w] of a latent, without losses."""

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes [B, C, h, w] of indices int64 [B, h, w]."""

    def config(self) -> dict[str, Any]:
        """The constructor arguments, as plain numbers, strings and lists: a checkpoint carries them."""


class CheckpointFacts(TypedDict, total=False):
    """What is known of the file a tokenizer came from; results of an evaluation carry it."""

    train_image_size: int | None  # side of the images it was trained on
    global_step: int | None  # of its training
    checkpoint_format: str
    ignored_tensors: dict[str, int]  # how many tensors beside the tokenizer's, by the first part of their names
    warnings: list[str]  # what a reader of its figures must know


@runtime_checkable
class Tokenizer(Protocol):
    """What evaluation, reconstruction and stage II need of any image tokenizer.

    One that was loaded from a file may carry `checkpoint_facts: CheckpointFacts` as well.
    """

    codebook_size: int
    downsampling: int

    def tokenize(self, image: Tensor) -> Tensor:
        """Indices int64 [B, h, w] (or [B, N]) of an image float [B, 3, H, W] in [-1, 1]."""

    def detokenize(self, indices: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], about [-1, 1] and not clamped, of indices."""

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction not clamped, indices) of an image in one pass."""


class Metric(Protocol):
    """Accumulates over batches on one rank and reduces over all ranks once, in `compute`."""

    def update(self, image: Tensor, reconstruction: Tensor, indices: Tensor, sample_index: Tensor) -> None:
        """Take one batch.

        Args:
            image: float [B, 3, H, W] in [-1, 1].
            reconstruction: float [B, 3, H, W], the decoder's output, not clamped.
            indices: int64 [B, h, w] or [B, N].
            sample_index: int64 [B], each image's position in the dataset.
        """

    def compute(self) -> dict[str, float]:
        """The figures over everything seen by all ranks since the last `reset`; a collective call under DDP."""

    def reset(self) -> None:
        """Forget everything."""
