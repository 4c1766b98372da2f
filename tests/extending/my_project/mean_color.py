"""A tokenizer to compare: the mean colour of every patch of 4 x 4 pixels, in a few levels. It has no EMA weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from open_magvit2.protocols import SizeRule


class MeanColor(nn.Module):
    """Images <-> indices [B, H / 4, W / 4] of `levels`^3 colours."""

    modality = "image"
    size_rule = SizeRule((4, 4))

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels, self.codebook_size = levels, levels**3

    def token_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        self.size_rule.check(size)
        return size[0] // 4, size[1] // 4

    def tokenize(self, image: Tensor) -> Tensor:
        mean = nn.functional.avg_pool2d(image, 4)
        digits = ((mean.clamp(-1, 1) + 1) / 2 * (self.levels - 1)).round().long()
        return digits[:, 0] + self.levels * (digits[:, 1] + self.levels * digits[:, 2])

    def detokenize(self, indices: Tensor) -> Tensor:
        digits = torch.stack([indices // self.levels**power % self.levels for power in range(3)], dim=1)
        return nn.functional.interpolate(digits / (self.levels - 1) * 2 - 1, scale_factor=4)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        indices = self.tokenize(image)
        return self.detokenize(indices), indices


def load(checkpoint: str | Path) -> MeanColor:
    return MeanColor(torch.load(checkpoint, weights_only=True)["levels"])
