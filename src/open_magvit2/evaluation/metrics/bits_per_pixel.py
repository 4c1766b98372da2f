"""What an image costs as tokens: log2(codebook size) bits a token, over the pixels of the image."""

import math

import torch
from torch import Tensor

from open_magvit2.evaluation.metrics import MetricContext
from open_magvit2.evaluation.per_image import PerImageMetric


class BitsPerPixel(PerImageMetric):
    """`bits_per_pixel`: tokens of an image x log2(codebook_size) / (H W), without entropy coding."""

    columns = ("bits_per_pixel",)

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.bits_per_token = math.log2(codebook_size)

    def measure(self, image: Tensor, reconstruction: Tensor, indices: Tensor) -> dict[str, Tensor]:
        batch, height, width = image.shape[0], image.shape[-2], image.shape[-1]
        bits = indices[0].numel() * self.bits_per_token / (height * width)
        return {"bits_per_pixel": torch.full((batch,), bits, dtype=torch.float64, device=image.device)}


def create(context: MetricContext) -> BitsPerPixel:
    return BitsPerPixel(context.codebook_size)
