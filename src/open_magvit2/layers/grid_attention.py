"""Self-attention over the positions of a feature map, as VQGAN's networks use it (Esser et al., arXiv 2012.09841)."""

import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.layers.convolution import Convolution, convolution_2d
from open_magvit2.layers.normalization import group_norm


class GridAttention(nn.Module):
    """x + out(softmax(q k^T / sqrt(C)) v), one head over all positions of x [B, C, *size]; q, k, v of a group norm."""

    def __init__(self, channels: int, norm_groups: int = 32, convolution: Convolution = convolution_2d) -> None:
        super().__init__()
        self.norm = group_norm(channels, norm_groups)
        self.query, self.key, self.value, self.out = (convolution(channels, channels, kernel_size=1) for _ in range(4))

    def forward(self, features: Tensor) -> Tensor:
        normed = self.norm(features)
        parts = (part(normed) for part in (self.query, self.key, self.value))
        query, key, value = (part.flatten(2).transpose(1, 2)[:, None] for part in parts)  # [B, 1, N, C]
        attended = F.scaled_dot_product_attention(query, key, value)[:, 0].transpose(1, 2)
        return features + self.out(attended.unflatten(2, features.shape[2:]))
