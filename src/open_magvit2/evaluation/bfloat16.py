"""Evaluation under bfloat16: the tokenizer's networks alone, while pixels and metrics stay in float32."""

import torch
from torch import Tensor

from open_magvit2.common.precision import autocast
from open_magvit2.protocols import Tokenizer


class Bfloat16Tokenizer:
    """A tokenizer whose networks run under bfloat16 autocast, whatever precision is around it.

    Images go in and come out in float32.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.codebook_size = tokenizer.codebook_size
        self.downsampling = tokenizer.downsampling

    def tokenize(self, image: Tensor) -> Tensor:
        """Indices of an image."""
        with autocast(image.device, "bf16"):
            return self.tokenizer.tokenize(image)

    def detokenize(self, indices: Tensor) -> Tensor:
        """Reconstruction of indices, float32."""
        with autocast(indices.device, "bf16"):
            reconstruction = self.tokenizer.detokenize(indices)
        return reconstruction.to(torch.float32)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction float32, indices) of an image."""
        with autocast(image.device, "bf16"):
            reconstruction, indices = self.tokenizer.reconstruct(image)
        return reconstruction.to(torch.float32), indices
