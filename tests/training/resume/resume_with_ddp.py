"""Run by test_state.py as two processes: an undisturbed run, one that a signal stops, and its continuation.

Usage: resume_with_ddp.py FOLDER
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

sys.path += [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[2] / "image_tokenizer")]

from interruptions import Record, fit
from pytorch_lightning.callbacks import Callback

from open_magvit2.common import checkpoints
from open_magvit2.common.distributed import all_gather_object
from open_magvit2.training.data_parallel import register_ddp


class SignalAt(Callback):
    """A signal to the process of one rank, in the middle of a training step."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGUSR1)


class CountBroadcasts:
    """In the place of `torch.distributed.broadcast`, which Lightning would call before every step and wait for."""

    def __init__(self) -> None:
        self.number, self.broadcast = 0, torch.distributed.broadcast

    def __call__(self, *arguments, **options):
        self.number += 1
        return self.broadcast(*arguments, **options)


class Draw(Callback):
    """Random numbers that differ between the ranks."""

    def on_fit_start(self, trainer, pl_module):
        torch.manual_seed(trainer.global_rank)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.logger.log_metrics({"drawn": torch.rand(()).item()}, step=trainer.global_step)


def main(folder: Path) -> None:
    register_ddp()
    torch.set_num_threads(1)
    options = {"devices": 2, "strategy": "ddp"}
    # no save but at validations and at the end, so that what is continued is what the signal saved
    options["saving"] = {"every_steps": 100}
    records, buffers = (Record(), Record()), []
    torch.distributed.broadcast = broadcasts = CountBroadcasts()
    run = fit(folder / "undisturbed", records[0], Draw(), **options)
    rank = run.global_rank
    buffers.append(dict(run.lightning_module.named_buffers()))
    try:
        fit(folder / "disturbed", records[1], Draw(), SignalAt(step=4, rank=1), **options)
    except SystemExit as stop:
        code = stop.code
    if rank == 0:
        shutil.copytree(folder / "disturbed", folder / "stopped")
    run.strategy.barrier()
    run = fit(folder / "disturbed", records[1], Draw(), continued=True, **options)
    buffers.append(dict(run.lightning_module.named_buffers()))
    differences = checkpoints.differences(*buffers)
    differences += [name for name in ("scalars", "images") if getattr(records[0], name) != getattr(records[1], name)]
    (folder / f"images_{rank}.json").write_text(json.dumps(records[0].images))
    statistics = next(value for name, value in buffers[0].items() if name.endswith("running_mean"))
    reports = all_gather_object((code, differences, statistics.tolist()))
    if rank == 0:
        stopped = checkpoints.read(folder / "stopped" / "last.ckpt")["global_step"]
        result = {
            "exit_codes": [report[0] for report in reports],
            "stopped_at": stopped,
            "differences": [report[1] for report in reports],
            "broadcasts": broadcasts.number,
            "statistics_of_ranks_differ": reports[0][2] != reports[1][2],
        }
        (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
