"""A tokenizer that costs nothing, to see what the rest costs."""

import torch
from torch import Tensor

from open_magvit2.protocols import Tokenizer


class InstantTokenizer:
    """The first code for every token, and given pictures for any tokens.

    Args:
        tokenizer: whose codebook and downsampling it has.
        pictures: float [N, 3, H, W] in [-1, 1]; `detokenize` gives the first of them. Without any they are grey.
    """

    def __init__(self, tokenizer: Tokenizer, pictures: Tensor | None = None) -> None:
        self.codebook_size, self.downsampling = tokenizer.codebook_size, tokenizer.downsampling
        self.pictures = pictures

    def tokenize(self, image: Tensor) -> Tensor:
        """Zeros int64 [B, h, w]."""
        sides = [side // self.downsampling for side in image.shape[-2:]]
        return torch.zeros((len(image), *sides), dtype=torch.int64, device=image.device)

    def detokenize(self, indices: Tensor) -> Tensor:
        """float [B, 3, H, W]."""
        if self.pictures is not None:
            return self.pictures[: len(indices)]
        height, width = (side * self.downsampling for side in indices.shape[-2:])
        return torch.zeros((len(indices), 3, height, width), device=indices.device)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image itself, and zeros."""
        return image, self.tokenize(image)
