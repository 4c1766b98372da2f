"""The networks that are measured: the published B models, or one of them on small images, with random weights."""

import copy
import warnings
from typing import Any, NamedTuple

import lpips
import torch
from torch import Tensor, nn

from benchmarks.baseline import PlainTraining
from benchmarks.mixed_precision import FLOAT32, MixedPrecision
from benchmarks.settings import Settings
from open_magvit2.common.images import to_float
from open_magvit2.image_tokenizer.discriminator import PatchDiscriminator
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.losses.adversarial import Adversary
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.losses.perceptual import PerceptualLoss
from open_magvit2.protocols import SizeRule, Tokenizer
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer
from open_magvit2.training.ema import move_averages


class OurTraining:
    """Steps of an `ImageTokenizerTraining` and the averages of its weights; no logging, no loops.

    Args:
        training: trained in place.
        decay: of the averages.
    """

    def __init__(self, training: ImageTokenizerTraining, decay: float = 0.999) -> None:
        self.training = training
        self.optimizers = training.configure_optimizers()
        self.decay = decay
        self.weights = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        self.averages = [weight.detach().clone() for weight in self.weights]

    def step(self, pixels: Tensor, precision: MixedPrecision = FLOAT32) -> dict[str, Any]:
        """One training step on uint8 images [B, 3, H, W]; the terms of the objectives. Gradients stay in `.grad`."""
        with precision.autocast():
            terms = self.training.train_on(
                pixels.to(self.weights[0].device, non_blocking=True),
                precision.wrapped(self.optimizers),
                precision.backward,
                scaler=precision.scaler,
            )
        self.update_averages()
        return terms

    def modules(self) -> nn.Module:
        """All that lies on the device but optimizers and averages."""
        perceptual = self.training.generator_objective.perceptual
        return nn.ModuleList([self.training] if perceptual is None else [self.training, perceptual.network])

    @torch.no_grad()
    def update_averages(self) -> None:
        """As the callback `ExponentialMovingAverage` does after a step."""
        move_averages(self.averages, self.weights, self.decay)


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
        return ImageTokenizer.convolutional(quantizer, self.channels, self.channel_multipliers)


B_128 = Case("B-128", (1, 2, 2, 4), 128)
B_256 = Case("B-256", (1, 1, 2, 2, 4), 256)
PUBLISHED = (B_128, B_256)
SMALL = Case("B-128 at 64 px", (1, 2, 2, 4), 64)
TINY = Case("B-128 at 32 px", (1, 2, 2, 4), 32)


def cases(settings: Settings) -> list[Case]:
    """The published models, or those chosen, in the order they are named; small: B-128 on a quarter of its pixels."""
    if not settings.full:
        return [SMALL]
    published = {case.name: case for case in PUBLISHED}
    return [published[name] for name in settings.models or published]


def make_tokenizer(case: Case, device: torch.device) -> ImageTokenizer:
    """Random weights, in evaluation mode: for speed any weights will do."""
    return case.tokenizer().to(device).eval().requires_grad_(False)


def make_lpips() -> nn.Module:
    """LPIPS on a random VGG-16, the same at every call: no download, the same work."""
    with warnings.catch_warnings(), torch.device("meta"):  # meta: VGG's unused classifier is most of its weights
        warnings.simplefilter("ignore", category=UserWarning)  # lpips uses torchvision's former `pretrained`
        network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    network = network.to_empty(device="cpu")
    network.scaling_layer = lpips.lpips.ScalingLayer()  # constants
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            nn.init.zeros_(weight)
        elif name.startswith("lin"):
            nn.init.uniform_(weight)  # positive: a distance
        else:  # as torchvision does: activations of one size through all layers
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    return network.eval().requires_grad_(False)


def make_training(case: Case, network: nn.Module | None = None, **options: Any) -> ImageTokenizerTraining:
    """The published training without its schedule, on the CPU; the whole batch is one micro-batch.

    Args:
        case: the model.
        network: of LPIPS; None makes one.
        options: further ones of `ImageTokenizerTraining`.
    """
    objective = GeneratorObjective(perceptual_weight=0.0)
    objective.perceptual_weight = 1.0
    objective.perceptual = PerceptualLoss(make_lpips() if network is None else network)
    return ImageTokenizerTraining(
        case.tokenizer(), objective, Adversary(PatchDiscriminator()), micro_batch_size=2**20, **options
    )


def make_ours(case: Case, device: torch.device, **options: Any) -> OurTraining:
    """Steps of ours, with `options` of `ImageTokenizerTraining`."""
    return OurTraining(make_training(case, **options).to(device))


def make_plain(case: Case, device: torch.device) -> PlainTraining:
    """Steps of the baseline, from the same weights."""
    network = make_lpips()
    training = make_training(case, network)
    copies = [copy.deepcopy(net).to(device) for net in (training.tokenizer, training.adversary.discriminator)]
    return PlainTraining(*copies, network.to(device))


def make_pixels(number: int, size: int, device: torch.device) -> Tensor:
    """uint8 [number, 3, size, size], random."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator).to(device)


def loaded(number: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same images as both loaders leave them in the host's memory, pinned if the device is a GPU.

    Returns:
        uint8 [number, 3, size, size] for ours; float [number, size, size, 3] in [-1, 1] for the baseline.
    """
    pixels = make_pixels(number, size, torch.device("cpu"))
    images = to_float(pixels).permute(0, 2, 3, 1).contiguous()
    return (pixels.pin_memory(), images.pin_memory()) if device.type == "cuda" else (pixels, images)


class FreeTokenizer:
    """A tokenizer that costs nothing, to measure what surrounds the networks: the first code for every token.

    Args:
        tokenizer: whose codebook and shapes it has.
        pictures: float [N, 3, H, W] in [-1, 1]; `detokenize` gives the first of them.
    """

    modality = "image"

    def __init__(self, tokenizer: Tokenizer, pictures: Tensor | None = None) -> None:
        self.codebook_size, self.token_shape = tokenizer.codebook_size, tokenizer.token_shape
        self.size_rule: SizeRule = tokenizer.size_rule
        self.pictures = pictures

    def tokenize(self, image: Tensor) -> Tensor:
        """Zeros int64 [B, *token_shape]."""
        shape = (len(image), *self.token_shape(image.shape[2:]))
        return torch.zeros(shape, dtype=torch.int64, device=image.device)

    def detokenize(self, indices: Tensor) -> Tensor:
        """float [B, 3, H, W]."""
        return self.pictures[: len(indices)]

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image itself, and zeros."""
        return image, self.tokenize(image)
