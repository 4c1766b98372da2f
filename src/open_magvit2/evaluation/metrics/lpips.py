"""LPIPS v0.1, with AlexNet and with VGG-16: two figures that must not be compared with each other.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018); the network is the
`lpips` package's. Inputs are floats in [-1, 1], reconstructions clamped and not quantised.
"""

from torch import Tensor

from open_magvit2.common import weights
from open_magvit2.common.precision import float32
from open_magvit2.evaluation.batch_invariance import image_by_image
from open_magvit2.evaluation.per_image_metric import PerImageMetric
from open_magvit2.losses.perceptual import Network, load_lpips
from open_magvit2.protocols import EvaluationBatch

_WEIGHTS = {"alex": (weights.ALEXNET, weights.LPIPS_ALEX), "vgg": (weights.VGG16, weights.LPIPS_VGG)}


class LPIPS(PerImageMetric):
    """`lpips_alex` or `lpips_vgg`, or both.

    Args:
        networks: which of "alex" and "vgg". VGG costs thirty times as much as AlexNet.
    """

    def __init__(self, networks: tuple[Network, ...] = ("alex", "vgg")) -> None:
        self.networks = {f"lpips_{network}": load_lpips(network) for network in networks}
        self.columns = tuple(self.networks)
        self.weight_files = tuple(name for network in networks for name in _WEIGHTS[network])
        super().__init__()

    def measure(self, batch: EvaluationBatch) -> dict[str, Tensor]:
        output = batch.output.clamp(-1.0, 1.0)
        distances = {}
        with float32(output.device.type):
            for name, network in self.networks.items():
                network.to(output.device)
                (distance,) = image_by_image(lambda x, y, network=network: (network(x, y),), batch.image, output)
                distances[name] = distance.flatten()
        return distances
