"""Child processes that die, hang or raise lose the number they were at and nothing else."""

import faulthandler
import os
import signal
import subprocess
import sys
import time

import pytest

from open_magvit2.data.isolation import Failure, map_isolated


def square_or_worse(number: int) -> int:
    if number == 5:
        faulthandler.disable()  # pytest's, which would print where
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 11:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory ends
    if number == 17:
        os._exit(3)
    if number == 23:
        time.sleep(3600)
    if number == 29:
        raise KeyError("a mistake\nof two lines")
    return number**2


@pytest.mark.parametrize("num_workers", [1, 3])
def test_each_number_comes_once_whatever_happens_to_the_others(num_workers):
    results = list(map_isolated(square_or_worse, range(60), num_workers, time_limit=3.0))
    assert sorted(number for number, _ in results) == list(range(60))
    found = dict(results)
    assert found.pop(5) == Failure("killed its process by SIGSEGV")
    assert found.pop(11) == Failure("killed its process by SIGKILL")
    assert found.pop(17) == Failure("ended its process with exit code 3")
    assert found.pop(23) == Failure("took longer than 3 s")
    assert found.pop(29) == Failure("KeyError: 'a mistake\\nof two lines'")
    assert found == {number: number**2 for number in found}


def test_nothing_to_do():
    assert list(map_isolated(square_or_worse, range(0), 2, 1.0)) == []
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        list(map_isolated(square_or_worse, range(1), 0, 1.0))


def children() -> list[str]:
    """The processes that this one has started, dead but unnoticed ones included."""
    path = f"/proc/self/task/{os.getpid()}/children"
    with open(path) as file:
        return file.read().split()


@pytest.mark.skipif(not os.path.exists(f"/proc/self/task/{os.getpid()}/children"), reason="needs /proc")
def test_no_process_is_left_behind():
    before = children()
    results = map_isolated(square_or_worse, range(3), 2, 10.0)
    next(results)
    assert len(children()) > len(before)
    results.close()
    assert children() == before


def test_workers_end_when_their_parent_is_killed():
    program = (
        "import os, time\n"
        "from open_magvit2.data.isolation import map_isolated\n"
        "def work(number):\n    time.sleep(0.05)\n    return os.getpid()\n"
        "for number, pid in map_isolated(work, range(10**6), 3, 10.0):\n    print(pid, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    workers = set()
    while len(workers) < 3:
        workers.add(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 300
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in workers if is_alive(pid)]}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie waits for its new parent
    except FileNotFoundError:
        return False
