"""A function over many numbers in child processes that may die or hang: only the number they were at is lost.

A decoder of untrusted files is C code that can crash or loop; `concurrent.futures` gives up the whole pool then.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from open_magvit2.common.arguments import above, integer

Result = TypeVar("Result")

_FORK = multiprocessing.get_context("fork")  # the function need not be picklable, and a new worker starts at once


class Failure(NamedTuple):
    """Instead of a result: what happened to the worker, or what the function raised, in one line."""

    cause: str


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    number: int = 0  # being worked on
    since: float = 0.0


def map_isolated(
    function: Callable[[int], Result], numbers: Sequence[int], num_workers: int, time_limit: float
) -> Iterator[tuple[int, Result | Failure]]:
    """(number, function(number)) for all numbers, in the order they are done; memory does not grow with them.

    Args:
        function: called in child processes; its result must be picklable.
        numbers: what to call it with.
        num_workers: number of child processes.
        time_limit: seconds a single call may take; its process is killed then, and another one goes on.
    """
    integer(1, num_workers=num_workers)
    above(0, time_limit=time_limit)
    waiting = iter(numbers)
    workers: list[_Worker] = []

    def give(worker: _Worker) -> None:
        """Hand a worker its next number, or let it end."""
        if (number := next(waiting, None)) is None:
            _stop(worker)
            workers.remove(worker)
            return
        worker.number, worker.since = number, time.monotonic()
        with contextlib.suppress(OSError):  # it is dead; reading from it says so next
            worker.connection.send(number)

    def start() -> None:
        workers.append(_start(function, [other.connection for other in workers]))
        give(workers[-1])

    def lose(worker: _Worker, cause: str) -> tuple[int, Failure]:
        _stop(worker)
        workers.remove(worker)
        start()
        return worker.number, Failure(cause)

    try:
        for _ in range(min(num_workers, len(numbers))):
            start()
        while workers:
            left = time_limit - (time.monotonic() - min(worker.since for worker in workers))
            ready = wait([worker.connection for worker in workers], max(left, 0.0))
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    number, result = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    code = worker.process.exitcode or 0
                    killed = f"killed its process by {signal.Signals(-code).name}" if code < 0 else ""
                    yield lose(worker, killed or f"ended its process with exit code {code}")
                else:
                    give(worker)
                    yield number, result
            now = time.monotonic()
            for worker in [w for w in workers if now - w.since >= time_limit and not w.connection.poll()]:
                yield lose(worker, f"took longer than {time_limit:g} s")
    finally:
        for worker in workers:
            _stop(worker)


def _start(function: Callable[[int], Any], others: list[Connection]) -> _Worker:
    ours, theirs = _FORK.Pipe()
    process = _FORK.Process(target=_work, args=(function, theirs, [ours, *others]), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _work(function: Callable[[int], Any], connection: Connection, inherited: list[Connection]) -> None:
    """A worker: numbers in, results out, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    for other in inherited:
        other.close()  # a copy that stayed open would hide the parent's end from us
    try:
        while True:
            number = connection.recv()
            try:
                result = function(number)
            except Exception as error:
                result = Failure(" ".join(f"{type(error).__name__}: {error}".split()))
            connection.send((number, result))
    except (EOFError, OSError):
        return  # the parent is gone
