"""The machine a figure was measured on: without it an absolute time says nothing."""

import os
from pathlib import Path
from typing import Any

import torch

from open_magvit2.common import environment
from open_magvit2.common.devices import choose_device


def device_name(device: torch.device) -> str:
    """A GPU's name, or the processor's with the number of cores this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {num_cores()} cores, {threads} thread{'s' if threads > 1 else ''}"


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        # What this process's allocator keeps without using it can be had as well.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    # What the kernel thinks new programs can get, and no more than the container may.
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    limits = [int(available.split()[1]) * 1024]
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        limits.append(int(limit.read_text()) - int(used.read_text()))
    return min(limits)


def chosen_device(name: str | None) -> torch.device:
    """The device of a name such as "cuda:1", with its index, and made the current one: events are recorded there.

    Args:
        name: None takes a GPU if there is one.

    Raises:
        ValueError: if there is no such device, or it cannot be used.
    """
    device = choose_device(name)
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"device must be cpu or cuda, which the clocks and the memory's meter know, got {name}")
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    torch.cuda.set_device(device)
    return device


def describe(device: torch.device) -> dict[str, Any]:
    """Everything that can move a figure, for benchmark.json."""
    return {
        "device": device_name(device),
        "cores": num_cores(),
        "torch_threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()),
        "versions": environment.versions(),
        "git": environment.git(),
        "command": environment.command(),
        "started_utc": environment.now(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"
