"""Start one process per device of this machine and end them together. scripts/launch.sh runs this file by its path.

    NODE_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 python launch.py --processes 8 --nodes 4 COMMAND ...

It sets the variables that torchrun sets, and does what torchrun does not (PyTorch 2.7): SIGTERM and SIGUSR1 reach all
processes, which may take any time to save; the exit code is that of the first process that failed, 75 if all left after
a signal; if this process is killed, the others are killed with it (on Linux).
"""

import argparse
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

PREEMPTED = 75  # stopped by a signal, the state is saved
ALL_ALIKE = (2, 3)  # refused before the first step, stopped by a callback: all processes fail, rank 0 says why


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line (sys.argv by default), run the processes, return their common exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, required=True, help="on this machine")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument("--grace-seconds", type=float, default=60.0, help="for the others to end after a failure")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="run once per process")
    args = parser.parse_args(words)
    if min(args.processes, args.nodes) < 1 or not args.grace_seconds >= 0 or not args.command:
        parser.error("expected --processes and --nodes of at least 1, --grace-seconds of at least 0, and a command")
    node = int(os.environ.get("NODE_RANK", 0)) if args.nodes > 1 else 0
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]  # free
    common = {
        "GROUP_RANK": node,
        "LOCAL_WORLD_SIZE": args.processes,
        "WORLD_SIZE": args.processes * args.nodes,
        "MASTER_ADDR": os.environ["MASTER_ADDR"] if args.nodes > 1 else "127.0.0.1",
        "MASTER_PORT": os.environ["MASTER_PORT"] if args.nodes > 1 else port,
        "TORCHELASTIC_RUN_ID": "open-magvit2",  # by which Lightning knows that it need not start processes
    }
    first = node * args.processes
    processes = [
        subprocess.Popen(
            args.command,
            env={**os.environ, **{k: str(v) for k, v in {**common, "LOCAL_RANK": i, "RANK": first + i}.items()}},
            preexec_fn=_end_with(os.getpid()),
        )
        for i in range(args.processes)
    ]

    def forward(number: int, _: object) -> None:
        for process in processes:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGUSR1, forward)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl+C reaches the processes by itself
    return wait(processes, first, args.grace_seconds)


def wait(processes: Sequence[subprocess.Popen], first_rank: int, grace_seconds: float) -> int:
    """Wait until all processes have ended. After a failure, the others have some time before they are killed.

    Returns:
        the exit code of the first one that failed (128 + the signal's number), 75 if some left with it, or 0.
    """
    result, deadline, running = 0, math.inf, dict(enumerate(processes))
    while running:
        ended = {index: process for index, process in running.items() if process.poll() is not None}
        if not ended and time.monotonic() >= deadline:
            for index, process in running.items():
                process.kill()
                if result not in ALL_ALIKE:
                    _say(f"{_name(index, process, first_rank)} was still running and is killed")
            break
        for index, process in ended.items():
            code = running.pop(index).returncode
            if code == 0:
                continue
            deadline = min(deadline, time.monotonic() + (0.0 if code in ALL_ALIKE else grace_seconds))
            if result in (0, PREEMPTED) and code != PREEMPTED:
                result = 128 - code if code < 0 else code
                _say(f"{_name(index, process, first_rank)} {_ending(code)}; the others end too")
            result = result or code
        time.sleep(0.0 if ended else 0.02)
    return result


def _end_with(parent: int) -> Callable[[], None]:
    """For `preexec_fn`: have the kernel (Linux's PR_SET_PDEATHSIG, 1) kill the new process when this one is gone."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def prepare() -> None:
        if prctl is not None:
            prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _name(index: int, process: subprocess.Popen, first_rank: int) -> str:
    return f"rank {first_rank + index} (process {process.pid} on {socket.gethostname()})"


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL (often the machine is out of memory, see dmesg)"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}, see its message"


def _say(message: str) -> None:
    sys.stderr.write(f"launch: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
