"""Training over processes: how the work of a step and its pace change when gradients are averaged over ranks.

NCCL with a GPU each, gloo on a CPU. The batch of a process stays the same (weak scaling).
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from open_magvit2.benchmark import machine, models
from open_magvit2.benchmark.failures import release
from open_magvit2.benchmark.mixed_precision import training_kernels
from open_magvit2.benchmark.settings import Row, Settings, not_measured
from open_magvit2.common.distributed import leave_process_group
from open_magvit2.common.images import to_float
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining

TITLE = "Scaling over processes"


def measure(settings: Settings) -> list[Row]:
    """One row for every number of processes up to those there is room for, of the first model."""
    cuda = settings.device.type == "cuda"
    most = torch.cuda.device_count() if cuda else min(2, machine.num_cores())
    case = models.cases(settings)[0] if settings.full else models.TINY
    batch = 8 if settings.full else 2
    worlds = [world for world in (1, 2, 4, 8) if world <= most]
    unit = "s a step" if cuda else "CPU s a step and process"
    rows: list[Row] = []
    for world in worlds:
        seconds, wall = _run(world, case, batch, settings)
        rows.append(
            {
                "table": f"{case.name}, batch {batch} a process, {'NCCL' if cuda else 'gloo'}, one thread each",
                "processes": world,
                unit: wall if cuda else seconds,
                "images / s (wall)": world * batch / wall,
                "efficiency of the work": (rows[0][unit] / (wall if cuda else seconds)) if rows else 1.0,
            }
        )
    if most < 2:
        rows.append({"table": rows[0]["table"], "processes": not_measured("one device alone")})
    return rows


def _run(world: int, case: models.Case, batch: int, settings: Settings) -> tuple[float, float]:
    """Medians over steps of CPU seconds a process and of wall seconds."""
    release()  # the first process shares its GPU with this one
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world, case, batch, settings.repeats, settings.device.type, folder)
        torch.multiprocessing.spawn(_rank, args=arguments, nprocs=world)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
    cpu = statistics.median(seconds for one in found for seconds in one["cpu"])
    return cpu, statistics.median(seconds for one in found for seconds in one["wall"])


class _Objective(torch.nn.Module):
    """The total of both objectives as a forward pass, which is what DDP can wrap without a Trainer."""

    def __init__(self, training: ImageTokenizerTraining) -> None:
        super().__init__()
        self.training_module = training

    def forward(self, pixels: Tensor) -> Tensor:
        return self.training_module.losses(to_float(pixels))[0]


@training_kernels()
def _rank(rank: int, world: int, case: models.Case, batch: int, repeats: int, kind: str, folder: str) -> None:
    """One process: a few steps, its times in a file."""
    torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    training = models.make_training(case).to(device)
    optimizers = training.configure_optimizers()
    parallel = DistributedDataParallel(
        _Objective(training),
        device_ids=[rank] if kind == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
    pixels = models.make_pixels(batch, case.image_size, device)
    times: dict[str, list[float]] = {"cpu": [], "wall": []}
    for number in range(1 + repeats):
        dist.barrier()
        cpu, wall = time.process_time(), time.monotonic()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)
        parallel(pixels).backward()
        for optimizer in optimizers:
            optimizer.step()
        if kind == "cuda":
            torch.cuda.synchronize(device)
        if number > 0:
            times["cpu"].append(time.process_time() - cpu)
            times["wall"].append(time.monotonic() - wall)
    Path(folder, f"{rank}.json").write_text(json.dumps(times))
    leave_process_group()
