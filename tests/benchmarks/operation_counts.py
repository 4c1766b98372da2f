"""Which operations a function runs, in its backward passes as well: what was computed, said without a clock."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WEIGHT_GRADIENT = "convolution_backward of a weight"


def operation_counts(function: Callable[[], Any]) -> Counter[str]:
    """Run a function once and count its operations by name, without overload: "convolution", "_fused_adam_".

    A convolution's backward pass counts under WEIGHT_GRADIENT as well where it makes its weight's gradient.
    """
    with _Counting() as counting:
        function()
    return counting.counts


def of_many_tensors(counts: Counter[str]) -> int:
    """Those among operations that work on a list of tensors at once."""
    return sum(number for name, number in counts.items() if name.startswith(("_foreach_", "_fused_")))


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket._qualified_op_name.split("::")[1]
        self.counts[name] += 1
        if name == "convolution_backward":
            _, of_weight, _ = args[-1]
            self.counts[WEIGHT_GRADIENT] += of_weight
        return operation(*args, **(kwargs or {}))
