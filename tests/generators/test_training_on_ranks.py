"""Two processes, by DDP and with sharded weights, train as one does, and continue from what they saved."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from small_generator_training import data, module, parameters, trainer

from open_magvit2.common import checkpoints
from open_magvit2.generators.pretrained import load_generator
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.sharding import FullySharded

SCRIPT = Path(__file__).with_name("train_on_two_processes.py")


@pytest.mark.parametrize(
    ("strategy", "kind"), [("ddp", "masked"), ("sharded", "autoregressive"), ("sharded", "masked")]
)
def test_two_processes_train_as_one_does(tmp_path, strategy, kind):
    for name in ("two", "one"):
        data(tmp_path / name)
    run(sys.executable, SCRIPT, tmp_path / "two", strategy, kind)
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    single = module(kind, {"dropout": 0.0}, micro_batch_size=8, class_dropout=0.3).double()
    alone = trainer(tmp_path / "one", max_steps=4, limit_val_batches=0)
    alone.fit(single, data(tmp_path / "one"))
    number = sum(p.numel() for p in single.generator.parameters())
    assert result["world_size"] == 2
    assert result["is_sharded"] == (strategy == "sharded")
    assert result["share"] <= number * (0.51 if strategy == "sharded" else 1)  # rows of tables do not divide evenly
    assert result["norms"] == pytest.approx([float(single.record.gradient_norms["generator"])] * 2, rel=1e-9)
    assert result["decayed"] == sum(p.ndim == 2 for p in single.generator.parameters())
    path = tmp_path / "two" / "checkpoints" / "last.ckpt"
    state = checkpoints.with_prefix(checkpoints.read(path)["state_dict"], "generator.")
    expected = single.generator.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert (state[name] - value).abs().max() < 1e-9, name
    assert torch.allclose(parameters(load_generator(path).double()), parameters(single.generator), atol=1e-6)
    if strategy == "ddp":
        assert result["difference_of_ranks"] == 0.0


def test_averages_of_sharded_weights_are_refused(tmp_path):
    training = trainer(tmp_path, strategy=FullySharded(), callbacks=[ExponentialMovingAverage()])
    with pytest.raises(ValueError, match="ema averages whole weights, and FullySharded shards them"):
        training.fit(module(), data(tmp_path))
