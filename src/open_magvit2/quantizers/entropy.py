"""The exact entropy penalty of lookup-free quantization, without the 2^K-way softmax.

MAGVIT-v2 (Yu et al., arXiv 2310.05737, eq. 5) trains the quantizer with H(p(c|z)) averaged over tokens, minus
H of the average p. With codes in {-1, +1}^K and logits 2 <z, c> / T the softmax over all 2^K codes factorises:

    p(c | z) = prod_k p(c_k | z_k),     p(c_k = +1 | z_k) = sigmoid(l_k),     l_k = 4 z_k / T.

The first term is then a sum of K Bernoulli entropies. For the second, the bits are split into two halves. Row r of the
matrix P [2^K2, 2^K1] stands for a value of the upper K2 bits, column c for one of the lower K1 bits, and

    P = 1/N B^T A,     A [N, 2^K1], B [N, 2^K2]: each token's distribution over the values of a half.

P is visited in chunks of rows. Its gradient is computed in the same visit, so that neither P nor anything with 2^K
columns per token is ever stored. The cost is 6 N 2^K operations.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_magvit2.common import distributed
from open_magvit2.common.arguments import above, at_least, integer
from open_magvit2.common.precision import full_precision

MAX_EXACT_BITS = 28  # 6 N 2^28 is 3.3 TFLOP for 2,048 tokens; every further bit doubles it
_CHUNK_ELEMENTS = 2**21  # of a chunk of P and of B: 8 MiB each in float32
# Where P is nearly uniform its entropy is flat and the gradient a difference of nearly equal numbers: small codebooks
# with many tokens reach that, and cost nothing in float64.
_DOUBLE_PRECISION_BITS = 14


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of Bernoulli(sigmoid(logits)), elementwise, finite for logits of any size.

    softplus(-|l|) + |l| sigmoid(-|l|): the textbook forms lose all digits, or give NaN, where sigmoid saturates.
    """
    magnitude = logits.abs()
    return F.softplus(-magnitude) + magnitude * torch.sigmoid(-magnitude)


def sample_entropy(latent: Tensor, temperature: float = 0.01) -> Tensor:
    """Mean over tokens of H(p(c|z)), by plain autograd: O(N K). The first term of `entropy_penalty`.

    Args:
        latent: float [N, K].
        temperature: T above.

    Returns:
        scalar in nats, in [0, K ln 2].
    """
    return bernoulli_entropy(latent * (4.0 / temperature)).sum(dim=1).mean()


def entropy_penalty(
    latent: Tensor, temperature: float = 0.01, eps: float = 1e-5, over_ranks: bool = False
) -> tuple[Tensor, Tensor]:
    """Exact sample entropy and codebook entropy of LFQ, differentiable once.

    Equal in value and gradient to the softmax over all 2^K codes; computed in float32 (float64 for float64
    input and for K <= 14) outside autocast and TF32, whatever the surroundings.

    Args:
        latent: float [N, K], before the sign; K <= 28. Half precision is read and gets its gradient in kind.
        temperature: T in logits 2 <z, c> / T; 0.01 as published.
        eps: added inside the logarithm of the average distribution, H = -sum P log(P + eps). The published
            recipe has 1e-5, which caps the entropy of 2^18 codes at 11.19 nats instead of 12.48; 0 is allowed.
        over_ranks: average P over all DDP ranks (of equal N) before taking its entropy. The gradient is scaled for
            DDP, which averages gradients: the averaged gradient is that of the entropy of the joint batch.

    Returns:
        (sample_entropy, codebook_entropy): float32 scalars in nats; training minimises the first, maximises the second.

    Raises:
        ValueError: for a latent that is not [N, K] with N, K >= 1, or with more bits than can be enumerated.
    """
    _check(latent, temperature, eps)
    if latent.shape[1] > MAX_EXACT_BITS:
        raise ValueError(
            f"the exact codebook entropy enumerates 2^K codes: got K = {latent.shape[1]}, expected at most "
            f"{MAX_EXACT_BITS}. Use codebook_entropy_bound (entropy_group_bits of the quantizer) for more bits"
        )
    with full_precision(latent.device.type):
        return _EntropyPenalty.apply(latent, temperature, eps, over_ranks)


def codebook_entropy_bound(
    latent: Tensor, group_bits: int, temperature: float = 0.01, eps: float = 1e-5, over_ranks: bool = False
) -> Tensor:
    """APPROXIMATE: an upper bound of the codebook entropy, for codebooks that are too large to enumerate.

    Entropy is subadditive: H(c) <= sum over groups of bits of H(c_group), with equality where the groups are
    independent. Maximising it makes each group uniform but is blind to dependence between groups. (The bound is
    one of the entropy with eps = 0; each group adds its own eps.)

    Args:
        latent: float [N, K], any K.
        group_bits: bits of a group, 1 to 28; the last group may be smaller.
        temperature, eps, over_ranks: as in `entropy_penalty`.

    Returns:
        scalar in nats.
    """
    _check(latent, temperature, eps)
    integer(1, MAX_EXACT_BITS, group_bits=group_bits)
    groups = latent.split(group_bits, dim=1)
    return torch.stack([entropy_penalty(group, temperature, eps, over_ranks)[1] for group in groups]).sum()


def _check(latent: Tensor, temperature: float, eps: float) -> None:
    if latent.ndim != 2 or latent.numel() == 0 or not latent.is_floating_point():
        raise ValueError(f"expected a float latent [N, K] with N, K >= 1, got {latent.dtype} {tuple(latent.shape)}")
    above(0, temperature=temperature)
    at_least(0, eps=eps)


def _log_joint(log_zero: Tensor, log_one: Tensor) -> Tensor:
    """Log-probabilities [N, 2^k] of all values of k independent bits [N, k]; bit 0 is the least significant.

    Outer sums in log space, one bit at a time: no product with a table of bits, so nothing for TF32 to round.
    """
    joint = log_zero.new_zeros(log_zero.shape[0], 1)
    for bit in range(log_zero.shape[1]):
        joint = torch.cat([joint + log_zero[:, bit : bit + 1], joint + log_one[:, bit : bit + 1]], dim=1)
    return joint


def _probabilities(log_probabilities: Tensor) -> Tensor:
    """exp, in place, with 0 below the square root of the smallest normal number (1e-19 in float32).

    No figure changes by it, and no product of two such numbers is subnormal, which CPUs compute slowly.
    """
    smallest = 0.5 * math.log(torch.finfo(log_probabilities.dtype).tiny)
    return log_probabilities.masked_fill_(log_probabilities < smallest, -math.inf).exp_()


def _sums_by_bit(weights: Tensor, num_bits: int) -> Tensor:
    """[N, k, 2]: for every bit, the sums of weights [N, 2^k] over the values in which that bit is 0, and is 1.

    From the most significant bit down, each time folding the two halves onto each other: O(2^k), not O(k 2^k).
    """
    sums = []
    for _ in range(num_bits):
        zero, one = weights.chunk(2, dim=1)
        sums.append(torch.stack([zero.sum(dim=1), one.sum(dim=1)], dim=1))
        weights = zero + one
    return torch.stack(sums[::-1], dim=1)


class _EntropyPenalty(torch.autograd.Function):
    """Both entropies and both gradients in the forward pass; only two [N, K] tensors are kept for the backward."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, temperature: float, eps: float, over_ranks: bool) -> tuple[Tensor, Tensor]:
        double = latent.shape[1] <= _DOUBLE_PRECISION_BITS and latent.device.type != "mps"
        dtype = torch.float64 if double or latent.dtype == torch.float64 else torch.float32
        scale = 4.0 / temperature
        logits = latent.to(dtype) * scale
        number = logits.shape[0]

        sample = bernoulli_entropy(logits).sum() / number
        sample_gradient = logits * torch.sigmoid(logits) * torch.sigmoid(-logits) * (-scale / number)

        codebook, codebook_gradient = _codebook_entropy(logits, eps, over_ranks)
        ctx.save_for_backward(sample_gradient, codebook_gradient * scale)
        ctx.latent_dtype = latent.dtype
        loss_dtype = torch.promote_types(latent.dtype, torch.float32)
        return sample.to(loss_dtype), codebook.to(loss_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sample: Tensor, grad_codebook: Tensor) -> tuple[Tensor, None, None, None]:
        sample_gradient, codebook_gradient = ctx.saved_tensors
        gradient = grad_sample * sample_gradient + grad_codebook * codebook_gradient
        return gradient.to(ctx.latent_dtype), None, None, None


def _codebook_entropy(logits: Tensor, eps: float, over_ranks: bool) -> tuple[Tensor, Tensor]:
    """Entropy of the average distribution and its gradient [N, K] with respect to the logits.

    With g = dH/dP and S1_k, S0_k the sums of g_c p(c) over the codes whose bit k is 1, is 0, a token's gradient is
    dH/dl_k = 1/N ((1 - p_k) S1_k - p_k S0_k). Written so, nothing cancels where p_k saturates. It is a covariance of
    g with bit k: a constant added to g changes nothing but the rounding, so g is centred first.
    """
    number, num_bits = logits.shape
    num_lower = (num_bits + 1) // 2
    num_upper = num_bits - num_lower
    log_one, log_zero = F.logsigmoid(logits), F.logsigmoid(-logits)
    lower = _probabilities(_log_joint(log_zero[:, :num_lower], log_one[:, :num_lower]))  # A

    # A chunk fixes the most significant of the upper bits and enumerates the rest: rows = 2^num_free of P.
    row_limit = max(1, _CHUNK_ELEMENTS // max(2**num_lower, number))
    num_free = min(num_upper, int(math.log2(row_limit)))
    free = slice(num_lower, num_lower + num_free)
    free_joint = _log_joint(log_zero[:, free], log_one[:, free])
    fixed_zero, fixed_one = log_zero[:, num_lower + num_free :], log_one[:, num_lower + num_free :]
    num_fixed = num_upper - num_free

    centre = _typical_gradient(lower, logits, log_zero, log_one, num_lower, eps)
    entropy = logits.new_zeros(())
    weights_lower = torch.zeros_like(lower)  # sum over rows of g p(c): what remains is to sum over the columns
    sums_free = logits.new_zeros(number, num_free, 2)
    sums_fixed = logits.new_zeros(number, num_fixed, 2)
    for chunk in range(2**num_fixed):
        fixed_bits = [(chunk >> bit) & 1 for bit in range(num_fixed)]
        fixed_log = sum((fixed_one if one else fixed_zero)[:, bit] for bit, one in enumerate(fixed_bits))
        upper = _probabilities(free_joint + (fixed_log[:, None] if num_fixed else 0.0))  # rows of B^T, [N, rows]

        average = (upper.T @ lower).div_(number)  # rows of P
        if over_ranks:
            distributed.all_reduce_mean(average)
        shifted = average + eps
        # P log(P + eps) is 0 at P = 0, also with eps = 0; `where` would leave NaN in neither value nor gradient
        log_shifted = shifted.clamp_min(torch.finfo(shifted.dtype).tiny).log_()
        entropy -= (average * log_shifted).sum()
        gradient = log_shifted.add_(average.div_(shifted.clamp_min_(torch.finfo(shifted.dtype).tiny)))
        gradient.neg_().sub_(centre)

        back = upper @ gradient  # [N, 2^K1]: sum over the rows of g p(row)
        weights_lower += back
        if num_free:
            sums_free += _sums_by_bit(upper.mul_(lower @ gradient.T), num_free)
        if num_fixed:
            token = (back * lower).sum(dim=1)  # sum over the chunk of g p(c)
            for bit, one in enumerate(fixed_bits):
                sums_fixed[:, bit, one] += token

    sums = torch.cat([_sums_by_bit(weights_lower.mul_(lower), num_lower), sums_free, sums_fixed], dim=1)
    return entropy, (torch.sigmoid(-logits) * sums[..., 1] - torch.sigmoid(logits) * sums[..., 0]) / number


def _typical_gradient(
    lower: Tensor, logits: Tensor, log_zero: Tensor, log_one: Tensor, num_lower: int, eps: float
) -> Tensor:
    """A scalar near the P-weighted mean of dH/dP: its mean over the codes of a few of this rank's tokens."""
    number = logits.shape[0]
    few = logits[:: max(1, number // 32)][:32] > 0  # [M, K]
    weights = (1 << torch.arange(num_lower, device=logits.device)).expand(len(few), -1)
    columns = (few[:, :num_lower] * weights).sum(dim=1)
    log_upper = few[:, num_lower:].to(logits.dtype)
    log_rows = log_zero[:, num_lower:] @ (1 - log_upper).T + log_one[:, num_lower:] @ log_upper.T  # [N, M]
    average = (lower[:, columns] * log_rows.exp()).mean(dim=0)
    shifted = (average + eps).clamp_min(torch.finfo(average.dtype).tiny)
    return -(shifted.log() + average / shifted).mean()
