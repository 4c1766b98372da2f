"""Dropout that keeps one byte a number on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """Zero each number with probability p, multiply the others by 1 / (1 - p) (Srivastava et al., JMLR 2014).

    On a CPU PyTorch's own keeps its mask in the features' dtype for the backward pass, and draws it at half the speed.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[...] -> [...]; the features themselves in evaluation mode."""
        if not self.training or self.p in (0.0, 1.0) or features.device.type != "cpu":
            return F.dropout(features, self.p, self.training)
        is_kept = torch.rand(features.shape, dtype=torch.float32) >= self.p
        return (features * is_kept).mul_(1 / (1 - self.p))
