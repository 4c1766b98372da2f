"""One value of every sub-token from its logits: temperature, top-k, top-p, a draw by a uniform number from a seed.

Top-p is nucleus sampling (Holtzman et al., arXiv 1904.09751). Random numbers come from the CPU, each image's from its
own seed, so that neither the device nor the batch decides which image is made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from open_magvit2.common.arguments import above, at_least, integer, within
from open_magvit2.common.precision import at_least_float32


@dataclass(frozen=True)
class SubTokenSampling:
    """How one sub-token of every position is drawn.

    Attributes:
        guidance: scale of classifier-free guidance; 1 is none.
        temperature: divides the logits.
        top_k: keep the k largest logits, and those equal to the smallest of them; 0 keeps all.
        top_p: keep the most probable values up to the first at which their sum exceeds p; 1 keeps all.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        at_least(0, guidance=self.guidance)
        integer(0, top_k=self.top_k)
        above(0, temperature=self.temperature, top_p=self.top_p)
        within(0, 1, include_high=True, top_p=self.top_p)


def filtered(logits: Tensor, setting: SubTokenSampling) -> Tensor:
    """Probabilities float32 (float64 of float64) [B, V] after temperature, top-k and top-p."""
    logits = at_least_float32(logits)
    if 0 < setting.top_k < logits.shape[-1]:
        smallest = logits.topk(setting.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    # A tiny temperature would overflow the largest logit; below it, overflow to -inf is a probability of 0.
    logits = divided(logits - logits.amax(dim=-1, keepdim=True), setting.temperature)
    probabilities = logits.softmax(dim=-1)
    if setting.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        dropped = (before > setting.top_p).scatter(-1, order, before > setting.top_p)
        probabilities = probabilities.masked_fill(dropped, 0.0)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def divided(logits: Tensor, temperature: float) -> Tensor:
    """Logits by a temperature. One that the dtype rounds to 0 counts as its smallest normal number: 0 / 0 is NaN."""
    return logits / max(temperature, torch.finfo(logits.dtype).tiny)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The value at which the cumulated probabilities [B, V] pass a uniform number [B] in [0, 1): int64 [B]."""
    cumulated = probabilities.to(torch.float64).cumsum(dim=-1)
    whole = cumulated[:, -1:]
    # Below the total, to which the product may round up: it would then select a value of probability 0.
    thresholds = torch.minimum(uniform[:, None] * whole, whole.nextafter(torch.zeros_like(whole)))
    chosen = torch.searchsorted(cumulated, thresholds, right=True)[:, 0]
    return chosen.clamp_max(probabilities.shape[-1] - 1)  # NaN finds no place at all: see `FiniteLogits`


class NotFiniteError(ValueError):
    """The logits of a generator were infinite or NaN. A draw from them gives some token, which means nothing."""


class FiniteLogits:
    """Notes whether all logits are finite, and says so at the end: no step waits for the device.

    Args:
        device: of the logits.
    """

    def __init__(self, device: torch.device) -> None:
        self.so_far = torch.ones((), dtype=torch.bool, device=device)

    def note(self, logits: Tensor) -> None:
        """Look at logits of any shape."""
        self.so_far.logical_and_(logits.isfinite().all())

    def check(self) -> None:
        """Refuse what was drawn.

        Raises:
            NotFiniteError: if any logit was infinite or NaN.
        """
        if not self.so_far:
            raise NotFiniteError(
                "the generator's logits are not finite: its tokens mean nothing. Sample in bfloat16 or float32; if "
                "that fails too, its weights are ruined: take an earlier checkpoint"
            )


class Streams:
    """Uniform random numbers of each image of a batch, from its own seed.

    NumPy hashes the whole seed. PyTorch's generator on a CPU reads its lowest 32 bits alone.

    Args:
        seeds: one an image, whole numbers >= 0 of any size.

    Raises:
        ValueError: for a negative seed.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        seeds = [int(seed) for seed in seeds]
        if seeds:
            integer(0, seeds=seeds)
        self._generators = [np.random.default_rng(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, *shape: int) -> Tensor:
        """The next numbers in [0, 1) of every image: float64 [B, *shape] on the CPU."""
        return torch.from_numpy(np.stack([generator.random(shape) for generator in self._generators]))
