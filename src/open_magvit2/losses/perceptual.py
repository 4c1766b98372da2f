"""LPIPS, the perceptual distance (Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018), frozen.

Networks and linear heads are those of the `lpips` package; this file decides where weights come from, what needs a
graph, and in which precision the comparison runs.
"""

import warnings
from typing import Any, Literal

import lpips
import torch
from torch import Tensor, nn

from open_magvit2.common import checkpoints, weights
from open_magvit2.common.precision import at_least_float32

Network = Literal["vgg", "alex"]

_TRUNKS = {"vgg": weights.VGG16, "alex": weights.ALEXNET}
_HEADS = {"vgg": weights.LPIPS_VGG, "alex": weights.LPIPS_ALEX}


def load_lpips(network: Network = "vgg") -> lpips.LPIPS:
    """The `lpips` package's LPIPS v0.1 in eval mode and frozen, from weight files verified by SHA-256.

    Raises:
        WeightsUnavailable: naming the file, its address, its checksum and the folder to put it into.
    """
    trunk_path, heads_path = weights.find(_TRUNKS[network]), weights.find(_HEADS[network])
    with warnings.catch_warnings(), torch.device("meta"):  # meta: skips initialising VGG's unused classifier
        warnings.simplefilter("ignore", category=UserWarning)  # lpips uses torchvision's former `pretrained`
        model = lpips.LPIPS(net=network, pretrained=False, pnet_rand=True, verbose=False)
    model = model.to_empty(device="cpu")
    model.scaling_layer = lpips.lpips.ScalingLayer()  # constants, not in any file
    trunk = checkpoints.read(trunk_path)
    names = {name: "features." + name.split(".", 1)[1] for name in model.net.state_dict()}
    checkpoints.load_strictly(model.net, {n: trunk[t] for n, t in names.items() if t in trunk}, trunk_path)
    heads = checkpoints.read(heads_path)
    lins = {name: f"lin{name}" for name in model.lins.state_dict()}  # "0.model.1.weight" -> "lin0.model.1.weight"
    checkpoints.load_strictly(model.lins, {n: heads[h] for n, h in lins.items() if h in heads}, heads_path)
    return model.eval().requires_grad_(False)


class PerceptualLoss(nn.Module):
    """LPIPS between reconstructions and targets.

    The network is no submodule: it takes no place in checkpoints, moving averages or DDP, yet follows `.to(device)`.

    Args:
        network: "vgg", as the published tokenizers are trained with, or "alex".
    """

    def __init__(self, network: Network = "vgg") -> None:
        super().__init__()
        self._network = [load_lpips(network)]

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Distance float32 [B] of images float [B, 3, H, W] in [-1, 1]; gradient to the reconstruction only."""
        network = self._network[0]
        with torch.no_grad():
            target_features = [_unit(f) for f in network.net(network.scaling_layer(target))]
        distance = torch.zeros(len(target), device=target.device)
        features = network.net(network.scaling_layer(reconstruction))
        for feature, target_feature, head in zip(features, target_features, network.lins, strict=True):
            difference = (_unit(feature) - target_feature).square()
            distance = distance + (difference * head.model[-1].weight).sum(dim=1).mean(dim=(1, 2))
        return distance

    def _apply(self, fn: Any, recurse: bool = True) -> "PerceptualLoss":
        self._network[0]._apply(fn)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PerceptualLoss":
        return self  # frozen: the averaged copy of a model can share it


def _unit(features: Tensor) -> Tensor:
    """Features [B, C, h, w] scaled to unit length over channels, in float32: fp16 squares overflow.

    The `lpips` package's x / (|x| + 1e-10), with a gradient of 0 instead of NaN where all channels are 0.
    """
    features = at_least_float32(features)
    length = features.square().sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
    return features / (length + 1e-10)
