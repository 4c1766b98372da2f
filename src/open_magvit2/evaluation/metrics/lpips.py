"""LPIPS v0.1, with AlexNet and with VGG-16: two figures that must not be compared with each other.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018); the network is the
`lpips` package's. Inputs are floats in [-1, 1], reconstructions clamped and not quantised.
"""

from torch import Tensor

from open_magvit2.common import weights
from open_magvit2.common.precision import float32
from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.evaluation.pixels import image_by_image
from open_magvit2.losses.perceptual import Network, load_lpips
from open_magvit2.protocols import EvaluationBatch

_LEAST_SIDE = {"alex": 31, "vgg": 16}  # less leaves nothing after the last pooling
_WEIGHTS = {"alex": (weights.ALEXNET, weights.LPIPS_ALEX), "vgg": (weights.VGG16, weights.LPIPS_VGG)}


class LPIPS(PerImageMetric):
    """`lpips_alex` or `lpips_vgg`, or both. VGG takes thirty times as long as AlexNet."""

    def __init__(self, networks: tuple[Network, ...] = ("alex", "vgg")) -> None:
        super().__init__()
        self.least_side = max(_LEAST_SIDE[network] for network in networks)
        self.networks = {f"lpips_{network}": load_lpips(network) for network in networks}
        self.columns = tuple(self.networks)
        self.weight_files = tuple(name for network in networks for name in _WEIGHTS[network])

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        size = tuple(batch.output.shape[-2:])
        if min(size) < self.least_side:
            least = f"{self.least_side} x {self.least_side}"
            raise ValueError(
                f"{', '.join(self.columns)} needs images of at least {least}, got {size}: take larger images"
            )
        output = batch.output.clamp(-1.0, 1.0)

        def distances(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            return tuple(network.to(x.device)(x, y).flatten() for network in self.networks.values())

        with float32(output.device.type):
            return dict(zip(self.columns, image_by_image(distances, batch.image, output), strict=True))
