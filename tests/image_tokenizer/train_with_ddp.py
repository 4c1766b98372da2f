"""Run by test_training.py: train on two CPU processes and report what DDP did. Usage: train_with_ddp.py FOLDER"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from small_training import SEPARABLE, data, module, trainer
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from open_magvit2.common.distributed import all_gather_object
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.evaluation.metrics.ssim import SSIM
from open_magvit2.protocols import EvaluationBatch
from open_magvit2.training.compilation import compile_networks
from open_magvit2.training.data_parallel import register_ddp
from open_magvit2.training.ema import ExponentialMovingAverage


class CountReductions(Callback):
    """Counts the gradient elements that DDP reduces in each training step, and compares the ranks after it."""

    def __init__(self) -> None:
        self.elements = 0
        self.largest_difference = 0.0
        self.per_step: list[int] = []

    def on_train_start(self, trainer, pl_module):
        self.ddp = trainer.strategy.model

        def hook(state, bucket):
            self.elements += bucket.buffer().numel()
            return allreduce_hook(None, bucket)

        self.ddp.register_comm_hook(None, hook)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.per_step.append(self.elements)
        self.elements = 0
        vector = torch.nn.utils.parameters_to_vector(pl_module.parameters()).detach()
        gathered = [torch.empty_like(vector) for _ in range(2)]
        dist.all_gather(gathered, vector)
        self.largest_difference = max(self.largest_difference, float((gathered[0] - gathered[1]).abs().max()))
        self.num_parameters = vector.numel()


class CountImages:
    """A metric: how many images both ranks have validated."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seen: list[int] = []

    def update(self, batch: EvaluationBatch) -> None:
        self.seen += batch.index.tolist()

    def compute(self) -> dict[str, float]:
        seen = [index for shard in all_gather_object(self.seen) for index in shard]
        assert sorted(seen) == list(range(len(seen)))
        return {"num_validated": float(len(seen))}


def main(folder: Path) -> None:
    register_ddp()
    torch.set_num_threads(1)
    counter = CountReductions()
    checkpoint = ModelCheckpoint(dirpath=folder, save_last=True, every_n_train_steps=3)
    training = module(micro_batch_size=2, metrics=[CountImages()])
    run = trainer(
        folder,
        devices=2,
        strategy="ddp",
        callbacks=[counter, checkpoint, ExponentialMovingAverage()],
        enable_checkpointing=True,
    )
    run.fit(training, data(global_batch_size=8))
    lecam = all_gather_object(float(training.adversary.lecam.ema_real))
    compiled = compare_compiled(folder)
    if run.is_global_zero:
        result = {
            "world_size": run.world_size,
            "largest_difference_between_ranks": counter.largest_difference,
            "reduced_elements_per_step": counter.per_step,
            "num_parameters": counter.num_parameters,
            "broadcast_buffers": counter.ddp.broadcast_buffers,
            "find_unused_parameters": counter.ddp.find_unused_parameters,
            "lecam_agrees": lecam[0] == lecam[1] != 0.0,
            "num_validated": int(run.callback_metrics["validation/num_validated"]),
            "compiled": compiled,
        }
        (folder / "result.json").write_text(json.dumps(result))
    compare_with_one_process(folder)


def compare_compiled(folder: Path) -> dict[str, float]:
    """Weights after two steps in float64, compiled with blocks recomputed against neither, relative to their change."""
    weights = []
    for compiled in (False, True):
        training = module(micro_batch_size=2, recompute="blocks" if compiled else "none")
        before = torch.nn.utils.parameters_to_vector(training.parameters()).detach().double()
        if compiled:
            compile_networks(*training.networks(), backend="aot_eager")
        counter = CountReductions()
        run = trainer(folder, devices=2, strategy="ddp", precision="64-true", max_steps=2, callbacks=[counter])
        run.fit(training, data(global_batch_size=8))
        weights.append(torch.nn.utils.parameters_to_vector(training.parameters()).detach())
    return {
        "difference": float((weights[1] - weights[0]).norm() / (weights[0] - before).norm()),
        "largest_difference_between_ranks": counter.largest_difference,
        "num_graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        "reduced_twice": counter.per_step == [counter.num_parameters] * 2,
    }


def compare_with_one_process(folder: Path) -> None:
    """Train and validate in float64 without terms that look at a batch as a whole; the test does so in one process."""
    options = {"discriminator": False, "objective": {"quantizer_weights": SEPARABLE}, "metrics": [PSNR(), SSIM()]}
    training = module(micro_batch_size=2, **options)
    run = trainer(folder, devices=2, strategy="ddp", precision="64-true")
    images = data(global_batch_size=8)
    images.validation_batch_size = 3  # 7 images: two batches on one rank, one on the other
    run.fit(training, images)
    if run.is_global_zero:
        (folder / "figures.json").write_text(json.dumps({k: float(v) for k, v in run.callback_metrics.items()}))
        torch.save(
            torch.nn.utils.parameters_to_vector(training.tokenizer.parameters()).detach(), folder / "parameters.pt"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
