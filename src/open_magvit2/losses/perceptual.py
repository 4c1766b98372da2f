"""LPIPS, the perceptual distance (Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018), frozen.

Networks and linear heads are those of the `lpips` package; this file decides where weights come from, what needs a
graph, and in which precision the comparison runs.
"""

import warnings
from typing import Any, Literal

import lpips
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from open_magvit2.common import checkpoints, weights
from open_magvit2.common.precision import at_least_float32

Network = Literal["vgg", "alex"]

EPS = 1e-10  # of the `lpips` package, added to a length

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
        network: "vgg", as the published tokenizers are trained with, or "alex"; or a network of `load_lpips`'s kind.
    """

    def __init__(self, network: Network | nn.Module = "vgg") -> None:
        super().__init__()
        self._network = [network if isinstance(network, nn.Module) else load_lpips(network)]

    @property
    def network(self) -> nn.Module:
        """LPIPS, frozen."""
        return self._network[0]

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Distance float32 [B] of images float [B, 3, H, W] in [-1, 1]; gradient to the reconstruction only."""
        network = self.network
        feature, target_feature = network.scaling_layer(reconstruction), network.scaling_layer(target)
        distance = torch.zeros(len(target), device=target.device)
        for stage, head in zip(_stages(network.net), network.lins, strict=True):
            feature = stage(feature)
            with torch.no_grad():
                target_feature = stage(target_feature)
                unit = _unit(target_feature)
            distance = distance + _LayerDistance.apply(feature, unit, head.model[-1].weight)
        return distance

    def _apply(self, fn: Any, recurse: bool = True) -> "PerceptualLoss":
        self.network._apply(fn)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PerceptualLoss":
        return self  # frozen: the averaged copy of a model can share it


def _stages(trunk: nn.Module) -> list[nn.Module]:
    """The pieces of a network of the `lpips` package, each of which ends at a layer that is compared.

    Stage by stage no more of the target's features than one layer's is alive.
    """
    return [getattr(trunk, f"slice{number}") for number in range(1, trunk.N_slices + 1)]


def _unit(features: Tensor) -> Tensor:
    """Features [B, C, h, w] scaled to unit length over channels, in float32: fp16 squares overflow."""
    features = at_least_float32(features)
    return features / (_length(features) + EPS)


def _length(features: Tensor) -> Tensor:
    return torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min_(EPS)


class _LayerDistance(torch.autograd.Function):
    """mean over places of sum_c w_c (u_c - t_c)^2, u = f / (|f| + eps): [B] of features f and unit targets t.

    The forward pass computes the gradient as well and saves only that tensor, where autograd would keep the difference
    and go back over it in a dozen passes. Where all channels are 0, the ReLU before blocks the gradient: its value does
    not matter there.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        ctx.dtype = features.dtype
        with torch.autocast(features.device.type, enabled=False):
            features, weight = at_least_float32(features), at_least_float32(weight)
            length = _length(features)
            unit = features / (length + EPS)
            difference = unit - target
            weighted = difference * weight
            distance = difference.mul_(weighted).sum(dim=1).mean(dim=(1, 2))
            if ctx.needs_input_grad[0]:
                # du_i / df_j = (delta_ij - u_i u_j (|f| + eps) / |f|) / (|f| + eps)
                along = (weighted * unit).sum(dim=1, keepdim=True).mul_((length + EPS) / length)
                gradient = weighted.sub_(unit.mul_(along)).div_(length + EPS)
                ctx.save_for_backward(gradient.mul_(2.0 / gradient[0, 0].numel()))
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_distance: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_distance[:, None, None, None]).to(ctx.dtype), None, None
