"""Run by test_training_on_ranks.py: train on two processes. Usage: train_on_two_processes.py FOLDER STRATEGY KIND"""

import json
import sys
from pathlib import Path

import torch
from small_generator_training import data, module, parameters, trainer

from open_magvit2.common import distributed
from open_magvit2.training.resume.checkpointing import TrainingCheckpoint
from open_magvit2.training.resume.state import ExactResumption
from open_magvit2.training.sharding import FullySharded, is_sharded


def main(folder: Path, strategy: str, kind: str) -> None:
    """Two steps, a checkpoint, and two more steps of a run that continues from it."""
    torch.set_num_threads(1)
    result = {}
    for max_steps in (2, 4):
        training = module(kind, {"dropout": 0.0}, micro_batch_size=2, class_dropout=0.3).double()
        run = trainer(
            folder,
            devices=2,
            strategy=FullySharded() if strategy == "sharded" else strategy,
            max_steps=max_steps,
            val_check_interval=2,
            limit_val_batches=1,
            enable_checkpointing=True,
            callbacks=[TrainingCheckpoint(str(folder / "checkpoints")), ExactResumption()],
        )
        continued = folder / "checkpoints" / "last.ckpt" if max_steps == 4 else None
        run.fit(training, data(folder), ckpt_path=continued)
        result["world_size"] = run.world_size
        result["is_sharded"] = is_sharded(training.generator)
        result["share"] = sum(getattr(p, "_local_tensor", p).numel() for p in training.generator.parameters())
        result["figures"] = {name: float(value) for name, value in run.callback_metrics.items()}
        result["norms"] = distributed.all_gather_object(float(training.record.gradient_norms["generator"]))
        result["decayed"] = len(run.optimizers[0].param_groups[0]["params"])
    if strategy == "ddp":
        first, second = distributed.all_gather_object(parameters(training.generator))
        result["difference_of_ranks"] = float((first - second).abs().max())
    if run.is_global_zero:
        (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
