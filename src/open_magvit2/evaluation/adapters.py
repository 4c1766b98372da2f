"""Tokenizers around another tokenizer: one for images of any size, one that runs under bfloat16 autocast."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from open_magvit2.common.precision import autocast
from open_magvit2.protocols import SizeRule, Tokenizer


class _Adapter:
    """The members of a tokenizer that its adapters leave as they are."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.codebook_size = tokenizer.codebook_size
        self.modality = tokenizer.modality
        self.size_rule = tokenizer.size_rule

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        return self.tokenizer.token_shape(size)


class PaddedTokenizer(_Adapter):
    """Images of any size: padded with grey to the next valid size, centred, and cropped back.

    The successor of the reference evaluates "original resolution" so. Indices, and what `detokenize` makes of them, are
    those of the padded image. A tokenizer of one fixed size refuses larger images.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.size_rule = SizeRule((1,) * len(tokenizer.size_rule.multiple))

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        return self.tokenizer.token_shape(self.tokenizer.size_rule.padded(size))

    def tokenize(self, image: Tensor) -> Tensor:
        return self.tokenizer.tokenize(self._pad(image)[0])

    def detokenize(self, indices: Tensor) -> Tensor:
        return self.tokenizer.detokenize(indices)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        padded, own = self._pad(image)
        reconstruction, indices = self.tokenizer.reconstruct(padded)
        return reconstruction[(..., *own)], indices

    def _pad(self, image: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
        """The padded image, and where in it the image lies; 0 is grey."""
        size = tuple(image.shape[2:])
        missing = [p - s for p, s in zip(self.tokenizer.size_rule.padded(size), size, strict=True)]
        margins = [side for number in reversed(missing) for side in (number // 2, number - number // 2)]
        own = tuple(slice(number // 2, number // 2 + side) for number, side in zip(missing, size, strict=True))
        return F.pad(image, margins), own


class Bfloat16Tokenizer(_Adapter):
    """The networks of a tokenizer under bfloat16 autocast, in any precision around it; images are float32."""

    def tokenize(self, image: Tensor) -> Tensor:
        with autocast(image.device, "bf16"):
            return self.tokenizer.tokenize(image)

    def detokenize(self, indices: Tensor) -> Tensor:
        with autocast(indices.device, "bf16"):
            return self.tokenizer.detokenize(indices).to(torch.float32)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(image.device, "bf16"):
            reconstruction, indices = self.tokenizer.reconstruct(image)
        return reconstruction.to(torch.float32), indices
