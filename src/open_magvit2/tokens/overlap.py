"""Device, host and disk at work at once: results are copied one batch behind, files are written by threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from open_magvit2.common.arguments import integer


def to_host(results: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same tensors on the host, in order, each handed out once the next one's work has been given to the device.

    Args:
        results: of any shape and dtype; asking for the next one begins its work. If that fails, what was computed
            before is handed out all the same, and the error is raised after it.
    """
    waiting: tuple[Tensor, torch.cuda.Event | None] | None = None
    failure: Exception | None = None
    try:
        for result in results:
            copied = None
            host = result.to("cpu", non_blocking=result.is_cuda)  # from a GPU into pinned memory
            if result.is_cuda:
                copied = torch.cuda.Event(blocking=True)  # waiting for it leaves the core to others
                copied.record(torch.cuda.current_stream(result.device))
            if waiting is not None:
                yield _arrived(*waiting)
            waiting = host, copied
    except Exception as error:
        failure = error
    if waiting is not None:
        yield _arrived(*waiting)
    if failure is not None:
        raise failure


def _arrived(host: Tensor, copied: torch.cuda.Event | None) -> Tensor:
    """A copy, once it is complete: before, its memory holds anything."""
    if copied is not None:
        copied.synchronize()
    return host


@contextmanager
def in_threads(num_threads: int, most_pending: int) -> Iterator[Callable[..., None]]:
    """A function `call(function, *arguments)` that lets threads do it; at the end all calls are done.

    The first error, in the order of the calls, is raised by a later `call` or at the end. After an error, whosesoever,
    calls that have begun are finished and the others are dropped.

    Args:
        num_threads: 0 calls at once, in the caller's thread.
        most_pending: calls that have not returned; `call` waits while there are so many, which bounds their memory.

    Raises:
        ValueError: if nothing may be pending.
    """
    if num_threads == 0:
        yield lambda function, *arguments: function(*arguments)
        return
    integer(1, num_threads=num_threads, most_pending=most_pending)
    pool, pending = ThreadPoolExecutor(num_threads), deque[Future[None]]()

    def call(function: Callable[..., None], *arguments: object) -> None:
        while pending and (pending[0].done() or len(pending) >= most_pending):
            pending.popleft().result()
        pending.append(pool.submit(function, *arguments))

    try:
        yield call
        while pending:
            pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
