"""What does not fit a device, or fails, is a finding of the benchmark: it is said in its row, and the rest goes on."""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from open_magvit2.benchmark.settings import Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

OUT_OF_MEMORY = "out of memory"  # what a table shows
_FAILED = "failed: "

# The allocators of CUDA and of the CPU, CUDA's driver below Triton's kernels; cuBLAS and cuDNN 8 without memory for
# themselves, cuDNN 9 (..._DEVICE_ALLOCATION_FAILED, ..._HOST_ALLOCATION_FAILED), cuBLAS on a card too full for its
# handle; the last two are what cuDNN says where no algorithm's scratch space is left.
_MESSAGES = (
    *("out of memory", "can't allocate memory", "alloc_failed", "allocation_failed"),
    "cublas_status_not_initialized when calling `cublascreate",
    *("unable to find an engine to execute", "unable to find a valid cudnn algorithm"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MESSAGES)


def unless_out_of_memory(function: Callable[[], T]) -> T | None:
    """What a function returns; None, with everything released that it had allocated, where memory did not suffice."""
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release()  # only here, where the error is gone, and with it the frames that held the function's tensors
    return None


def fits(function: Callable[[], object], device: torch.device) -> bool:
    """Whether a call does with the memory of a GPU; on a CPU nothing is tried, where too much ends the process."""

    def call() -> bool:
        function()
        torch.cuda.synchronize(device)
        return True

    return device.type != "cuda" or unless_out_of_memory(call) is not None


def or_reason(function: Callable[[], T]) -> T | str:
    """What a function returns; where it fails, the reason in words. What it had allocated is released."""
    found: T | str
    try:
        found = function()
    except Exception as error:  # of whatever kind, a compiler's too: the other variants are measured all the same
        if is_out_of_memory(error):
            found = OUT_OF_MEMORY
        else:
            logger.exception("a variant failed")
            found = f"{_FAILED}{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    release()
    return found


def rows_or_reason(function: Callable[[], Iterable[Row]], **labels: Any) -> list[Row]:
    """The rows of a function; where it fails, one row of its labels and, as "reason", why."""
    found = or_reason(lambda: list(function()))
    return [{**labels, "reason": found}] if isinstance(found, str) else found


def then_raise(rows: Iterable[Row]) -> Iterator[Row]:
    """The same rows; after the last one an error, if some say in one of their columns that they failed.

    Raises:
        RuntimeError: with their reasons, so that the section counts as failed and yet keeps its rows.
    """
    reasons: list[str] = []
    for row in rows:
        reasons += [value for value in row.values() if str(value).startswith(_FAILED)]
        yield row
    if reasons:
        raise RuntimeError(f"{len(reasons)} variants: {'; '.join(dict.fromkeys(reasons))}")


def release() -> None:
    """Give memory of what nobody uses any more back to the device, so that the next to come finds all of it."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA is not in use
