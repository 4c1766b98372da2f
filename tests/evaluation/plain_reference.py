"""What the reference's evaluation does outside the networks, written from its description: the cost to compare with.

Batches of four; averaged weights stored, copied in and copied back around each; one squared error over a batch, taken
once for each of its images; scikit-image's SSIM image by image; a dictionary with a counter for each code.
"""

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from open_magvit2.image_tokenizer.model import ImageTokenizer

BATCH_SIZE = 4


class PlainEvaluation:
    """The loop's own work for images and reconstructions float [B, 3, H, W] in [-1, 1] and indices [B, h, w]."""

    def __init__(self, codebook_size: int) -> None:
        self.usage = dict.fromkeys(range(codebook_size), 0)
        self.psnr, self.ssim = [], []

    def batch(self, image, reconstruction, indices):
        """Everything of a batch but the weights."""
        self.count(indices)
        first, second = self.pixels(image), self.pixels(reconstruction)
        psnr = ssim = 0.0
        for a, b in zip(first, second, strict=True):
            psnr += peak_signal_noise_ratio(first, second)
            ssim += structural_similarity(a, b, channel_axis=-1, data_range=1.0)
        self.psnr.append(psnr / len(first))
        self.ssim.append(ssim / len(first))

    def count(self, indices):
        for index in indices.flatten():
            self.usage[index.item()] += 1

    def figures(self):
        used = sum(count > 0 for count in self.usage.values())
        return {
            "psnr_batch4": np.mean(self.psnr),
            "ssim_paper": np.mean(self.ssim),
            "codebook_utilization": used / len(self.usage),
        }

    @staticmethod
    def pixels(image):
        unit = (image.clamp(-1, 1) + 1) / 2
        return (unit * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy().astype(np.float32) / 255


class WeightSwap:
    """What each batch pays for averaged weights: store the raw ones, copy the averages in, copy the raw ones back.

    The weights are those of the B model at 256, 65.5 million in 250 MiB; what was stored stays until the next time.
    """

    def __init__(self):
        with torch.device("meta"):
            shapes = {
                n: p.shape
                for n, p in ImageTokenizer.convolutional(channel_multipliers=(1, 1, 2, 2, 4)).named_parameters()
            }
        self.parameters, self.averages = ({n: torch.rand(shape) for n, shape in shapes.items()} for _ in range(2))

    def __call__(self):
        self.stored = [parameter.clone() for parameter in self.parameters.values()]
        for name, parameter in self.parameters.items():
            parameter.copy_(self.averages[name])
        for raw, parameter in zip(self.stored, self.parameters.values(), strict=True):
            parameter.copy_(raw)
