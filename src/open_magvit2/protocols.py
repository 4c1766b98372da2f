"""The data flow as types: what one part of the project may expect of another.

    image --encoder--> latent --quantizer--> codes, indices --decoder--> reconstruction --metrics--> numbers

Rooms import these protocols instead of each other, so that a new encoder, quantizer, tokenizer or metric is one new
file. "Image" stands for a clip as well: where an image is [B, 3, H, W], a clip is [B, 3, T, H, W].
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable

from torch import Tensor
from typing_extensions import NotRequired

Modality = Literal["image", "video"]
Weights = Literal["ema", "raw"]  # which of a checkpoint's weights: their moving averages, or the trained ones


class Sample(TypedDict):
    """One element of a dataset, or a batch of them after collation (a leading dimension B, lists for strings)."""

    image: Tensor  # uint8 [3, H, W], RGB; a clip is [3, T, H, W]
    label: int  # class index; -1 where the dataset has no classes
    path: str  # where the image comes from, for error messages and reports
    index: int  # position in the dataset: 0 .. len(dataset) - 1
    skipped: str  # files that could not be read and whose place this image takes, "path<tab>cause" a line; mostly ""
    text: NotRequired[str]  # of image-text data, where its source is asked for the text


class SizeRule(NamedTuple):
    """Which sizes a network takes, one entry an axis: (H, W) of an image, (T, H, W) of a clip.

    Along each axis a size is valid if it is `offset + k * multiple` with a whole number k >= 1, or k >= 0 where the
    offset is positive: an offset of 1 and a multiple of 4 in time are the 1, 5, 9, 17, ... frames of a causal network.
    Where `fixed` is given, only that size is valid; where `square` is true, only one with equal height and width.
    """

    multiple: tuple[int, ...]
    offset: tuple[int, ...] = ()  # () is 0 for every axis
    fixed: tuple[int, ...] | None = None
    square: bool = False

    def padded(self, size: Sequence[int]) -> tuple[int, ...]:
        """The smallest valid size that holds `size`.

        Raises:
            ValueError: for another number of axes, a side below 1, or a size that the fixed one cannot hold.
        """
        if len(size) != len(self.multiple) or min(size) < 1:
            raise ValueError(f"expected {len(self.multiple)} positive sides ({self}), got {_text(size)}")
        if self.fixed is not None:
            if any(side > fixed for side, fixed in zip(size, self.fixed, strict=True)):
                raise ValueError(f"expected at most {_text(self.fixed)}, got {_text(size)}: resize or crop")
            return self.fixed
        offsets = self.offset or (0,) * len(size)
        steps = (
            max(-(-(side - offset) // multiple), 0 if offset else 1)
            for side, multiple, offset in zip(size, self.multiple, offsets, strict=True)
        )
        sides = tuple(o + k * m for o, k, m in zip(offsets, steps, self.multiple, strict=True))
        return (*sides[:-2], *(max(sides[-2:]),) * 2) if self.square else sides

    def check(self, size: Sequence[int]) -> None:
        """Refuse a size that is not valid.

        Raises:
            ValueError: with the size, the rule and the remedy.
        """
        if tuple(size) != self.padded(size):
            raise ValueError(f"expected a size of {self}, got {_text(size)}: resize, crop or pad")

    def __str__(self) -> str:
        if self.fixed is not None:
            return _text(self.fixed)
        rules = zip(self.multiple, self.offset or (0,) * len(self.multiple), strict=True)
        text = "multiples of " + " x ".join(f"{m}" if o == 0 else f"({m} plus {o})" for m, o in rules)
        return f"{text}, square" if self.square else text


def _text(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


class Encoder(Protocol):
    """Image -> latent. Implementations are `torch.nn.Module`s whose constructor arguments are attributes."""

    latent_channels: int
    size_rule: SizeRule

    def latent_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """The grid of the latent of an image of a size: (h, w) of (H, W), (t, h, w) of (T, H, W), or (N,)."""

    def forward(self, image: Tensor) -> Tensor:
        """Latent [B, C, *grid] of images float [B, 3, H, W] in [-1, 1]."""


class Decoder(Protocol):
    """Codes -> image. Implementations are `torch.nn.Module`s whose constructor arguments are attributes."""

    latent_channels: int

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last layer, where VQGAN's adaptive weight of the GAN term compares gradients."""

    def forward(self, codes: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], about [-1, 1] and not clamped, of codes [B, C, *grid]."""


class QuantizerOutput(NamedTuple):
    """Output of a quantizer."""

    codes: Tensor  # [B, C, *grid], the quantized vectors, with a straight-through gradient to the latent
    indices: Tensor  # int64 [B, *grid] in [0, codebook_size); [B, *grid, L] with L indices a position
    losses: dict[str, Tensor]  # named, unweighted scalars; their weights live in the generator objective


class Quantizer(Protocol):
    """Turns a continuous latent into codes and indices; *grid is (h, w), (t, h, w) or (N,).

    Implementations are `torch.nn.Module`s whose constructor arguments are attributes of the same names, from which a
    checkpoint rebuilds them (`common.construction`). Optional attributes: `indices_per_position`, L > 1;
    `loss_weights`, the weights of its losses by name; `step_fraction`, a float that training sets before each forward
    pass to the share of the step's batch that it sees, for what moves once a step.
    """

    latent_channels: int
    codebook_size: int

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantize a latent [B, C, *grid] and compute the losses that train it."""

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, C, *grid] and indices [B, *grid] of a latent, without losses."""

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Codes [B, C, *grid] of indices int64 [B, *grid]."""


class CheckpointFacts(TypedDict, total=False):
    """Facts about the file of a tokenizer; results of an evaluation carry them."""

    path: str  # the file
    family: str  # a name of `evaluation.tokenizers`
    sha256: str  # of the file
    weights: Weights  # which were loaded; a family without moving averages says "raw"
    train_image_size: int | list[int] | None  # side, or sides, of the images it was trained on
    global_step: int | None  # of its training
    checkpoint_format: str
    ignored_tensors: dict[str, int]  # how many tensors besides the tokenizer's, by the first part of their names
    warnings: list[str]  # what a reader of its figures must know


@runtime_checkable
class Tokenizer(Protocol):
    """A tokenizer of images or clips, as evaluation, reconstruction and stage II need it.

    One that was loaded from a file carries `checkpoint_facts: CheckpointFacts` as well. A continuous autoencoder, an
    upper bound in comparisons, has codebook_size None, float latents in the place of indices, and no indices from
    `reconstruct`.
    """

    codebook_size: int | None
    modality: Modality
    size_rule: SizeRule

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Shape of the indices of one image of a size: (h, w), (N,), (t, h, w), or (h, w, L).

        Args:
            size: (H, W) of an image, (T, H, W) of a clip.

        Raises:
            ValueError: for a size that `size_rule` refuses.
        """

    def tokenize(self, image: Tensor) -> Tensor:
        """Indices int64 [B, *token_shape] of images float [B, 3, H, W] in [-1, 1]."""

    def detokenize(self, indices: Tensor) -> Tensor:
        """Reconstruction [B, 3, H, W], about [-1, 1] and not clamped, of indices."""

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """(reconstruction not clamped, indices) of an image in one pass."""


@runtime_checkable
class Generator(Protocol):
    """A class-conditional generator of tokens, as training's pictures, evaluation and scripts need it.

    A tokenizer whose `codebook_size` and `token_shape` are the generator's `codebook_size` and `grid` makes images of
    the indices.
    """

    codebook_size: int
    grid: tuple[int, ...]
    num_classes: int

    def generate(self, labels: Tensor, seeds: Sequence[int], settings: Any = None) -> Tensor:
        """Indices int64 [B, *grid] of one image a label.

        An image depends on its label, its seed and the settings; not on the batch it is made in, up to rounding.

        Args:
            labels: int64 [B] in [0, num_classes).
            seeds: one an image, whole numbers >= 0 of any size.
            settings: of `make_settings`; None takes the generator's defaults.

        Raises:
            ValueError: for labels outside the class table, another number of seeds, settings that do not fit, or
                logits that are not finite.
        """

    def make_settings(self, **options: Any) -> Any:
        """Settings of `generate`, a dataclass, from named options as a command line has them: guidance, temperature.

        Raises:
            ValueError: for an option that the generator does not have, naming those it has, or a value out of range.
        """


class EvaluationBatch(NamedTuple):
    """One batch, as a metric sees it."""

    output: Tensor  # float [B, 3, H, W], about [-1, 1] and not clamped: reconstructions, or generated images
    index: Tensor  # int64 [B], each image's position in the dataset, or its number among the generated ones
    image: Tensor | None = None  # float [B, 3, H, W] in [-1, 1], the originals; None for generated images
    indices: Tensor | None = None  # int64 [B, *token_shape]; None where there are no tokens


class Metric(Protocol):
    """Accumulates over batches on one rank and reduces over all ranks once, in `compute`."""

    def update(self, batch: EvaluationBatch) -> None:
        """Accumulate one batch."""

    def compute(self) -> dict[str, float]:
        """The figures over everything seen by all ranks since the last `reset`; a collective call under DDP."""

    def reset(self) -> None:
        """Forget everything."""
