"""Bits per pixel of an image as tokens: log2(codebook size) for each token, divided by the number of pixels."""

import math

import torch
from torch import Tensor

from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.protocols import EvaluationBatch


class BitsPerPixel(PerImageMetric):
    """`bits_per_pixel`: tokens of an image x log2(codebook_size) / (H W), without entropy coding."""

    columns = ("bits_per_pixel",)

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.bits_per_token = math.log2(codebook_size)

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        bits = batch.indices[0].numel() * self.bits_per_token / batch.output[0, 0].numel()
        return {"bits_per_pixel": torch.full_like(batch.index, bits, dtype=torch.float64)}
