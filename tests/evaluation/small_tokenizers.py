"""Tiny tokenizers and datasets for the tests of the evaluation, fast and deterministic."""

from collections.abc import Sequence

import torch
from torch import Tensor

from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.protocols import EvaluationBatch, Sample, SizeRule


class CoarseTokenizer:
    """Cuts an image into 4 x 4 blocks and keeps three bits of each channel's mean: 9 bits a token, codebook 512.

    An honest tokenizer with an exact round trip between indices and reconstructions, and no parameters.
    """

    codebook_size = 512
    modality = "image"
    side = 4
    size_rule = SizeRule((side, side))
    levels = 8

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        self.size_rule.check(size)
        return tuple(side // self.side for side in size)

    def tokenize(self, image: Tensor) -> Tensor:
        means = torch.nn.functional.avg_pool2d(image, self.side)
        level = ((means + 1) / 2 * self.levels).floor().clamp(0, self.levels - 1).to(torch.int64)
        return level[:, 0] * self.levels**2 + level[:, 1] * self.levels + level[:, 2]

    def detokenize(self, indices: Tensor) -> Tensor:
        level = torch.stack(
            [indices // self.levels**2, indices // self.levels % self.levels, indices % self.levels], dim=1
        )
        # A little beyond [-1, 1], as a decoder's output is.
        coarse = ((level + 0.5) / self.levels * 2 - 1) * 1.05
        return coarse.repeat_interleave(self.side, -1).repeat_interleave(self.side, -2)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        indices = self.tokenize(image)
        return self.detokenize(indices), indices


class IdentityTokenizer(CoarseTokenizer):
    """Returns the image itself; it remembers which one its tokens came from."""

    def __init__(self) -> None:
        self.images: dict[bytes, Tensor] = {}

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        indices = self.tokenize(image)
        for tokens, one in zip(indices, image, strict=True):
            self.images[tokens.numpy().tobytes()] = one
        return image.clone(), indices

    def detokenize(self, indices: Tensor) -> Tensor:
        return torch.stack([self.images[tokens.numpy().tobytes()] for tokens in indices])


class SequenceTokenizer(CoarseTokenizer):
    """The same tokens in one row, of images of one size: 1-D tokens, as TiTok has."""

    size_rule = SizeRule((32, 32), fixed=(32, 32))

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        self.size_rule.check(size)
        return (64,)

    def tokenize(self, image: Tensor) -> Tensor:
        return super().tokenize(image).flatten(1)

    def detokenize(self, indices: Tensor) -> Tensor:
        return super().detokenize(indices.unflatten(1, (8, 8)))


def make_images(number: int, size: int = 32, seed: int = 0) -> Tensor:
    """uint8 [number, 3, size, size]: smooth random shapes with a little noise, each image different."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 5, 5, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return to_uint8(smooth + 0.05 * torch.randn(number, 3, size, size, generator=generator))


def make_loader(images: Tensor, batch_size: int, indices: list[int] | None = None) -> list[Sample]:
    """Batches of Samples of the images at `indices` (default: all, in order)."""
    indices = list(range(len(images))) if indices is None else indices
    chunks = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return [
        Sample(
            image=images[chunk],
            label=torch.full((len(chunk),), -1),
            path=[f"{index:05d}.png" for index in chunk],
            index=torch.tensor(chunk),
        )
        for chunk in chunks
    ]


def make_batch(image: Tensor, output: Tensor, indices: Tensor | None = None, index: Tensor | None = None):
    """What a metric sees of originals and reconstructions; by default the first images, with one token each."""
    indices = torch.zeros(len(image), 1, dtype=torch.int64, device=image.device) if indices is None else indices
    return EvaluationBatch(output, torch.arange(len(image)) if index is None else index, image, indices)


def make_pair(number: int, size: int = 32, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Float originals in [-1, 1] and noisy reconstructions that leave the range here and there."""
    image = to_float(make_images(number, size))
    generator = torch.Generator().manual_seed(1)
    return image, image * 1.02 + noise * torch.randn(image.shape, generator=generator)
