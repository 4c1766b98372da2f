"""What `lightning_internals` relies on, one test each, with a real Trainer; an update of Lightning begins here."""

import atexit
import inspect
import os
import subprocess
from datetime import timedelta
from typing import get_args

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning_fabric.utilities import distributed as lightning_distributed
from pytorch_lightning.callbacks import Callback, WeightAveraging
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.strategies import DDPStrategy, ddp

from open_magvit2.training import lightning_internals as internals


class Regression(pl.LightningModule):
    """Three training batches an epoch, one of validation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(3, 1))

    def val_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(1, 1))


class Watch(Callback):
    """Calls a function of the trainer in hooks, and keeps what it returns."""

    def __init__(self, function, *hooks: str) -> None:
        self.seen: list = []
        for hook in hooks:
            setattr(self, hook, lambda trainer, *_: self.seen.append(function(trainer)))


class Steps(DummyLogger):
    """The step of everything that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def log_metrics(self, metrics, step=None):
        self.steps.append(step)


def trainer(*callbacks: Callback, **options) -> pl.Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "max_steps": 5, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return pl.Trainer(**{**defaults, **quiet, "callbacks": list(callbacks), **options})


def fit(*callbacks: Callback, ckpt_path=None, **options) -> pl.Trainer:
    run = trainer(*callbacks, **options)
    run.fit(Regression(), ckpt_path=ckpt_path)
    return run


def test_keep_limits_whole():
    internals.keep_limits_whole()
    parameters = inspect.signature(pl.Trainer).parameters
    for name in ("limit_train_batches", "limit_val_batches", "overfit_batches"):
        assert get_args(parameters[name].annotation)[:2] == (int, float)


def test_batches_done():
    watch = Watch(internals.batches_done, "on_train_batch_end")
    run = fit(watch)
    assert watch.seen == [1, 2, 3, 4, 5]
    assert internals.batches_done(run) == 5


def test_epoch_and_batch():
    watch = Watch(internals.epoch_and_batch, "on_train_batch_end", "on_validation_end", "on_train_end")
    fit(watch)
    assert watch.seen == [(0, 1), (0, 2), (1, 0), (1, 0), (1, 1), (1, 2), (1, 2)]


def test_is_accumulating():
    watch = Watch(internals.is_accumulating, "on_train_batch_end")
    fit(watch, accumulate_grad_batches=2, max_steps=2)
    assert watch.seen == [True, False, False]  # Lightning steps at the end of the epoch


def test_validation_follows():
    watch = Watch(internals.validation_follows, "on_train_batch_end", "on_validation_end")
    fit(watch, val_check_interval=2, check_val_every_n_epoch=None)
    assert watch.seen == [False, True, False, False, True, False, False]


def test_set_position(tmp_path):
    """Saved in the middle of the loop, continued at the next batch, in the same epoch or in a new one."""

    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            epoch, batch = internals.epoch_and_batch(trainer)
            internals.set_position(checkpoint, epoch, batch, trainer.global_step, trainer.global_step)

    fit(Save(), max_steps=3)
    for step, expected in ((2, [(0, 2), (1, 0), (1, 1)]), (3, [(1, 0), (1, 1)])):
        watch = Watch(lambda run: (run.current_epoch, run.fit_loop.epoch_loop.batch_idx), "on_train_batch_start")
        run = fit(watch, ckpt_path=tmp_path / f"{step}.ckpt")
        assert watch.seen == expected
        assert run.global_step == internals.batches_done(run) == 5


def test_begin_data():
    class Counting(torch.utils.data.DataLoader):
        iterators = 0

        def __iter__(self):
            Counting.iterators += 1
            return super().__iter__()

    module = Regression()
    module.train_dataloader = lambda: Counting(torch.ones(3, 1))
    trainer(Watch(internals.begin_data, "on_train_start"), max_steps=3).fit(module)
    assert Counting.iterators == 2  # Lightning's own and that


def test_broadcast_buffers(monkeypatch):
    wrapped = []
    monkeypatch.setattr(ddp, "DistributedDataParallel", lambda module, **options: wrapped.append(options))
    for ask in (lambda run: None, internals.broadcast_buffers):
        run = trainer(strategy=DDPStrategy(broadcast_buffers=False))
        ask(run)
        run.strategy._setup_model(Regression())
    assert [options["broadcast_buffers"] for options in wrapped] == [False, True]


def test_set_logging_step():
    log = Steps()
    fit(Watch(lambda run: internals.set_logging_step(run, 100), "on_train_start"), logger=log, log_every_n_steps=1)
    assert log.steps == [100, 101, 102, 103, 104]


def test_set_max_steps():
    assert fit(Watch(lambda run: internals.set_max_steps(run, 2), "on_train_start")).global_step == 2


def test_validate():
    order = []

    class Order(Callback):
        def on_train_start(self, trainer, pl_module):
            internals.validate(trainer)
            assert trainer.training

        def on_validation_end(self, trainer, pl_module):
            order.append("validation")

        def on_train_batch_end(self, trainer, pl_module, *_):
            order.append("step")

    fit(Order(), max_steps=3)
    assert order == ["validation", "step", "step", "step", "validation"]


def test_skip_agreement_on_sigterm():
    """That none is left between two processes is tested in test_state.py."""
    loop = trainer().fit_loop.epoch_loop
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(type(loop).advance)
    internals.skip_agreement_on_sigterm(loop.trainer)
    assert "_broadcast_sigterm_tensor" in vars(loop)
    assert loop._broadcast_sigterm_tensor() is None


def test_collective_timeout():
    timeout = timedelta(minutes=3)
    assert internals.collective_timeout(trainer(strategy=DDPStrategy(timeout=timeout))) == timeout
    assert internals.collective_timeout(trainer()) is None


def test_keep_process_groups_at_exit(monkeypatch):
    registering = inspect.getsource(lightning_distributed._init_dist_connection)
    assert "atexit.register(_destroy_dist_connection)" in registering
    removed = []
    monkeypatch.setattr(atexit, "unregister", removed.append)
    internals.keep_process_groups_at_exit()
    assert removed == [lightning_distributed._destroy_dist_connection]


@pytest.fixture
def launched():
    """A trainer of two processes, the second one of which is `sleep`."""
    run = trainer(devices=2, strategy="ddp")
    process = subprocess.Popen(["sleep", "3600"])
    run.strategy.launcher.procs.append(process)
    yield run, process
    process.kill()
    process.wait()


def test_started_processes(launched):
    run, process = launched
    assert internals.started_processes(run) == [process]
    assert internals.started_processes(trainer()) == []
    process.kill()
    process.wait()
    observer = _ChildProcessObserver(main_pid=os.getpid(), child_processes=internals.started_processes(run))
    internals.started_processes(run).clear()
    assert observer._run()  # and this process lives


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """A command line that has validated, with a checkpoint that Lightning could not have read."""
    calls = []

    class Watched(internals.CommandLine):
        def run_subcommand(self, subcommand):
            calls.append(subcommand)

    monkeypatch.setattr("sys.argv", ["train.py"])
    (tmp_path / "damaged.ckpt").write_bytes(b"no checkpoint")
    words = ["validate", "--ckpt_path", str(tmp_path / "damaged.ckpt"), "--trainer.logger", "false"]
    return Watched(Regression, args=words, save_config_callback=None, seed_everything_default=0), calls


def test_run_subcommand(command_line):
    assert command_line[1] == ["validate"]


def test_subcommand_parser(command_line):
    cli, _ = command_line
    assert "damaged.ckpt" in cli.subcommand_parser().dump(cli.config.validate)


def test_lightning_does_not_read_the_checkpoint_while_it_parses(command_line):
    assert command_line[0].config.validate.ckpt_path.endswith("damaged.ckpt")
    assert "_parse_ckpt_path" in vars(LightningCLI)


def test_average_module():
    averaging = WeightAveraging()
    fit(averaging, max_steps=1)
    assert isinstance(internals.average_module(averaging), Regression)
