"""The networks that are measured: the published B models, or one of them on small images, with random weights."""

import copy
import warnings
from typing import NamedTuple

import lpips
import torch
from torch import Tensor, nn

from open_magvit2.benchmark.our_step import OurTraining
from open_magvit2.benchmark.plain_step import PlainTraining
from open_magvit2.benchmark.settings import Settings
from open_magvit2.common.images import to_float
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.losses.perceptual import PerceptualLoss
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


class Case(NamedTuple):
    """A model on images of a size."""

    name: str
    channel_multipliers: tuple[int, ...]
    image_size: int
    channels: int = 128
    num_bits: int = 18

    def tokenizer(self) -> ImageTokenizer:
        """The same random weights at every call."""
        torch.manual_seed(0)
        quantizer = LookupFreeQuantizer(self.num_bits)
        return ImageTokenizer(quantizer, self.channels, self.channel_multipliers)


B_128 = Case("B-128", (1, 2, 2, 4), 128)
B_256 = Case("B-256", (1, 1, 2, 2, 4), 256)
SMALL = Case("B-128 at 64 px", (1, 2, 2, 4), 64)


def cases(settings: Settings) -> list[Case]:
    """Both published models; at small sizes the first alone, on images of a quarter of its pixels."""
    return [B_128, B_256] if settings.full else [SMALL]


def make_tokenizer(case: Case, device: torch.device) -> ImageTokenizer:
    """Random weights, in evaluation mode: for speed any weights will do."""
    return case.tokenizer().to(device).eval().requires_grad_(False)


def make_lpips() -> nn.Module:
    """LPIPS on a random VGG-16: no download, the same work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)  # lpips uses torchvision's former `pretrained`
        return lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False).eval().requires_grad_(False)


def make_training(case: Case, network: nn.Module | None = None) -> ImageTokenizerTraining:
    """The published training without its schedule, on the CPU; the whole batch is one micro-batch."""
    objective = GeneratorObjective(perceptual_weight=0.0)
    objective.perceptual_weight = 1.0
    objective.perceptual = PerceptualLoss(make_lpips() if network is None else network)
    return ImageTokenizerTraining(case.tokenizer(), objective, PatchDiscriminator(), micro_batch_size=2**20)


def make_ours(case: Case, device: torch.device) -> OurTraining:
    """Steps of ours."""
    return OurTraining(make_training(case).to(device))


def make_plain(case: Case, device: torch.device) -> PlainTraining:
    """Steps of the baseline, from the same weights."""
    network = make_lpips()
    training = make_training(case, network)
    copies = [copy.deepcopy(net).to(device) for net in (training.tokenizer, training.discriminator)]
    return PlainTraining(*copies, network.to(device))


def make_pixels(number: int, size: int, device: torch.device) -> Tensor:
    """uint8 [number, 3, size, size], random."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator).to(device)


def float_images(pixels: Tensor) -> Tensor:
    """The same images as the baseline's loader hands them over: float [B, H, W, 3] on the CPU."""
    return to_float(pixels.cpu()).permute(0, 2, 3, 1).contiguous()
