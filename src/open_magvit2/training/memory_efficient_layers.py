"""Layers whose backward pass needs little: they keep their inputs, and compute cheap products of them again."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from open_magvit2.common.precision import at_least_float32, autocast_dtype


def normalized_linears(features: Tensor, norm: nn.RMSNorm, *linears: nn.Linear) -> tuple[Tensor, ...]:
    """linear(norm(features)) for each of the linear layers, which have no biases; [..., D] -> [..., D'] each.

    It keeps `features` alone, where autograd keeps the norm's intermediate results and its output as well.
    """
    eps = torch.finfo(features.dtype).eps if norm.eps is None else norm.eps
    return _NormalizedLinears.apply(features, norm.weight, eps, *(linear.weight for linear in linears))


def swiglu_down(gate: Tensor, up: Tensor, down: nn.Linear) -> Tensor:
    """down(silu(gate) * up) for a linear layer without a bias, [..., D'] -> [..., D].

    It keeps `gate` and `up` alone, where autograd keeps silu(gate) and the product as well.
    """
    return _SwiGLUDown.apply(gate, up, down.weight)


def _linear(features: Tensor, weight: Tensor) -> Tensor:
    """In the features' dtype. Autocast would cast the weight, and lend the copy, which has no graph, to others."""
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features, weight.to(features.dtype))


class _NormalizedLinears(torch.autograd.Function):
    """Linear layers of RMSNorm (Zhang and Sennrich, arXiv 1910.07467).

    With r = 1 / sqrt(mean(x^2) + eps) and n = x r, the norm is n w. Its gradient g becomes r (g w - n mean(g w n)) for
    x, and the sum of g n over the rows for w.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, scale: Tensor, eps: float, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, scale, *weights)
        ctx.eps = eps
        normalized = F.rms_norm(features, scale.shape, scale, eps)
        return tuple(_linear(normalized.to(autocast_dtype(normalized)), weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, scale, *weights = ctx.saved_tensors
        rows = at_least_float32(features).flatten(0, -2)
        inverse = rows.square().mean(dim=-1, keepdim=True).add_(ctx.eps).rsqrt_()
        unscaled = rows * inverse
        flat = [gradient.flatten(0, -2) for gradient in gradients]
        inputs = (unscaled * scale).to(flat[0].dtype)
        of_weights = [gradient.t() @ inputs for gradient in flat]
        back = flat[0] @ weights[0].to(flat[0].dtype)
        for gradient, weight in zip(flat[1:], weights[1:], strict=True):
            back.addmm_(gradient, weight.to(gradient.dtype))
        back = at_least_float32(back)
        products = back * unscaled
        of_scale = products.sum(dim=0)
        # A backward pass inside autocast, as a LightningModule's own is, would sum in 16 bits: float16 overflows there.
        with torch.autocast(features.device.type, enabled=False):
            along = (products @ scale.to(products.dtype)).div_(rows.shape[-1])
        back.mul_(scale).addcmul_(unscaled, along[:, None], value=-1).mul_(inverse)
        of_weights = [gradient.to(weight.dtype) for gradient, weight in zip(of_weights, weights, strict=True)]
        return back.to(features.dtype).view_as(features), of_scale.to(scale.dtype), None, *of_weights


class _SwiGLUDown(torch.autograd.Function):
    """The derivative of silu(a) b is silu'(a) b to a, silu(a) to b (Shazeer, arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return _linear(F.silu(gate).mul_(up), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        gate, up, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        activated = F.silu(gate)
        of_weight = rows.t() @ (activated * up).flatten(0, -2)
        back = (rows @ weight.to(rows.dtype)).view_as(gate)
        of_up = activated.mul_(back)
        return torch.ops.aten.silu_backward(back.mul_(up), gate), of_up, of_weight.to(weight.dtype)
