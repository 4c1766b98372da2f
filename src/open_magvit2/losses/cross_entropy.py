"""Cross-entropy of a classifier over many classes, which keeps one copy of the logits for the backward pass."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from open_magvit2.common.precision import at_least_float32


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target] of every row, in nats and in float32 at least.

    Args:
        logits: float [..., V].
        target: int64 [...].
        label_smoothing: e; the objective is (1 - e) of the cross-entropy and e of its mean over all V classes
            (Szegedy et al., arXiv 1512.00567, section 7).

    Returns:
        (objective [...] with graph, cross-entropy [...] without): the same numbers where e is 0.
    """
    return _CrossEntropy.apply(logits, target, label_smoothing)


class _CrossEntropy(torch.autograd.Function):
    """The gradient is softmax - (1 - e) onehot(target) - e / V."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, target: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
        values = at_least_float32(logits)
        normalizer = values.logsumexp(dim=-1, keepdim=True)
        nats = (normalizer - values.gather(-1, target[..., None])).squeeze(-1)
        objective = nats.clone()
        if label_smoothing:
            mean = normalizer.squeeze(-1) - values.mean(dim=-1)
            objective.mul_(1 - label_smoothing).add_(mean, alpha=label_smoothing)
        ctx.save_for_backward(logits, target, normalizer)
        ctx.label_smoothing = label_smoothing
        ctx.mark_non_differentiable(nats)
        return objective, nats

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        logits, target, normalizer = ctx.saved_tensors
        scale, smoothing = gradient[..., None], ctx.label_smoothing
        back = (logits - normalizer).exp_()
        if smoothing:
            back.sub_(smoothing / logits.shape[-1])
        back.mul_(scale).scatter_add_(-1, target[..., None], scale * (smoothing - 1))
        return back.to(logits.dtype), None, None
