"""An index of K bits as a few sub-tokens of fewer bits: 2^18 codes without a softmax over 2^18.

Source: Open-MAGVIT2 (Luo et al., arXiv 2409.04410, section 3.2), there 18 = 6 + 12 bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from open_magvit2.common.arguments import integer


class Factorization:
    """The bijection between indices and groups of bits.

    Args:
        bits: of each sub-token, e.g. (6, 12); their sum is K. One group, (14,), leaves the index as it is.
        most_significant_first: sub-token 0 is made of the index's highest bits instead of its lowest.

    Raises:
        ValueError: for groups below 1 bit or more than 62 bits together.
    """

    def __init__(self, bits: Sequence[int], most_significant_first: bool = False) -> None:
        integer(1, bits=bits)
        if sum(bits) > 62:
            raise ValueError(f"bits must add up to at most 62, got {list(bits)}")
        self.bits = tuple(bits)
        self.most_significant_first = most_significant_first
        lower = [sum(self.bits[:group]) for group in range(len(self.bits))]
        upper = [sum(self.bits[group + 1 :]) for group in range(len(self.bits))]
        self._shifts = upper if most_significant_first else lower

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each sub-token."""
        return tuple(2**number for number in self.bits)

    @property
    def codebook_size(self) -> int:
        """Number of indices, 2^K."""
        return 2 ** sum(self.bits)

    def check(self, indices: Tensor) -> None:
        """Refuse indices that are no integers, or outside [0, 2^K) (this waits for the device).

        Raises:
            ValueError: naming what was found.
        """
        if indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(f"expected integer indices, got {indices.dtype}")
        if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= self.codebook_size):
            raise ValueError(
                f"indices must lie in [0, {self.codebook_size}), got [{int(indices.min())}, {int(indices.max())}]"
            )

    def split(self, indices: Tensor, is_checked: bool = False) -> Tensor:
        """Sub-tokens int64 [..., G] of indices int64 [...] in [0, 2^K).

        Args:
            indices: of tokens.
            is_checked: they are known to be in range.

        Raises:
            ValueError: see `check`.
        """
        if not is_checked:
            self.check(indices)
        groups = zip(self._shifts, self.sizes, strict=True)
        return torch.stack([(indices.to(torch.int64) >> shift) & (size - 1) for shift, size in groups], dim=-1)

    def join(self, sub_tokens: Tensor) -> Tensor:
        """Indices int64 [...] of sub-tokens int64 [..., G]: the inverse of `split`."""
        if sub_tokens.shape[-1] != len(self.bits):
            raise ValueError(f"expected sub-tokens [..., {len(self.bits)}], got {tuple(sub_tokens.shape)}")
        shifts = torch.tensor(self._shifts, device=sub_tokens.device)
        return (sub_tokens.to(torch.int64) << shifts).sum(dim=-1)
