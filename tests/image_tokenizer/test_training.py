"""The training step: gradients, steps, loss scale, and what it logs and saves."""

import json
import sys
from pathlib import Path

import commands
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import MixedPrecision
from small_training import SEPARABLE, data, module, parameters, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from open_magvit2 import load_tokenizer
from open_magvit2.evaluation.metrics.psnr import PSNR
from open_magvit2.evaluation.metrics.ssim import SSIM
from open_magvit2.quantizers.vector import VectorQuantizer
from open_magvit2.training.image_grid import ImageGrid
from open_magvit2.training.progress import TrainingProgress
from open_magvit2.training.schedules import StepDrop


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_backward_gives_each_network_the_gradient_of_its_own_objective(adaptive):
    training = module(adversary={"adaptive_weight": adaptive}).double()
    image = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1
    total, _ = training.losses(image)
    total.backward()
    got = {name: p.grad.clone() for name, p in training.named_parameters()}

    reference = module(adversary={"adaptive_weight": adaptive}).double()
    output = reference.tokenizer(image)
    fake = output.reconstruction
    distance, generator, _ = reference.generator_objective(image, fake, output.losses, 0)
    term, _ = reference.adversary.generator_term(fake, 0, distance, reference.tokenizer.decoder.last_layer)
    discriminator, _ = reference.adversary.discriminator_total(image, fake.detach().clone(), 0)
    expected = {}
    for loss, prefix in ((generator + term, "tokenizer."), (discriminator, "adversary.discriminator.")):
        parameters_ = {name: p for name, p in reference.named_parameters() if name.startswith(prefix)}
        gradients = torch.autograd.grad(loss, list(parameters_.values()), retain_graph=True)
        expected |= dict(zip(parameters_, gradients, strict=True))

    assert set(got) == set(expected)
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, rtol=1e-9, atol=1e-12), name


def test_micro_batches_add_up_to_the_whole_batch(tmp_path):
    # without terms that look at a batch as a whole (entropy, BatchNorm) a cut batch is the same batch
    results = []
    for size in (8, 2):
        training = module(discriminator=False, objective={"quantizer_weights": SEPARABLE}, micro_batch_size=size)
        trainer(tmp_path, precision="64-true", limit_val_batches=0).fit(training, data())
        results.append(parameters(training.tokenizer))
    assert torch.allclose(*results, rtol=1e-7, atol=1e-9)


def test_one_batch_is_one_step_for_both_networks(tmp_path):
    training = module()
    before = parameters(training.tokenizer), parameters(training.adversary.discriminator)
    run = trainer(tmp_path, max_steps=3)
    run.fit(training, data())
    assert run.global_step == 3
    for optimizer in run.optimizers:
        assert {int(state["step"]) for state in optimizer.state.values()} == {3}
    assert not torch.equal(before[0], parameters(training.tokenizer))
    assert not torch.equal(before[1], parameters(training.adversary.discriminator))


class Poison(Callback):
    """Makes the gradients of one network infinite at one step, as an overflow in fp16 would."""

    def __init__(self, network: str, at_step: int) -> None:
        self.network, self.at_step = network, at_step

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.at_step:
            next(pl_module.get_submodule(self.network).parameters()).grad.fill_(float("inf"))


def fp16_trainer(folder: Path, scaler: torch.amp.GradScaler, **options) -> pl.Trainer:
    """float16 autocast with a real loss scaler, on the CPU."""
    return trainer(folder, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)], **options)


def test_the_loss_scale_is_updated_once_a_step(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    training = module()
    fp16_trainer(tmp_path, scaler, max_steps=3).fit(training, data())
    assert scaler.get_scale() == 2.0**11  # two steps: grown once; counted per optimizer it would have grown three times
    assert scaler._get_growth_tracker() == 1
    assert torch.isfinite(parameters(training.tokenizer)).all()


@pytest.mark.parametrize("network", ["tokenizer", "adversary.discriminator"])
def test_an_overflow_skips_its_network_and_halves_the_scale_once(tmp_path, network):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    training = module()
    run = fp16_trainer(tmp_path, scaler, max_steps=2, callbacks=[Poison(network, at_step=1)], limit_val_batches=0)
    run.fit(training, data())
    assert run.global_step == 2
    assert scaler.get_scale() == 2.0**9
    steps = [{int(state["step"]) for state in optimizer.state.values()} for optimizer in run.optimizers]
    assert steps == ([{1}, {2}] if network == "tokenizer" else [{2}, {1}])
    assert torch.isfinite(parameters(training)).all()


def test_fp16_gradients_are_unscaled_before_they_are_clipped_and_logged(tmp_path):
    norms = []
    for plugin in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        training = module(gradient_clip_norm=1e-3)
        run = trainer(tmp_path, max_steps=1) if plugin is None else fp16_trainer(tmp_path, plugin, max_steps=1)
        run.fit(training, data())
        norms.append({name: float(norm) for name, norm in training.record.gradient_norms.items()})
    assert set(norms[0]) == {"generator", "discriminator"}
    for name, norm in norms[0].items():
        assert norms[1][name] == pytest.approx(norm, rel=0.1)


def test_bf16_trains(tmp_path):
    training = module()
    trainer(tmp_path, precision="bf16-mixed").fit(training, data())
    assert torch.isfinite(parameters(training)).all()


def test_gradient_clipping_bounds_the_step(tmp_path):
    class Norm(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.tokenizer.parameters()])

    norm = Norm()
    trainer(tmp_path, max_steps=1, callbacks=[norm]).fit(module(gradient_clip_norm=0.01), data())
    assert norm.norm.item() == pytest.approx(0.01, rel=1e-3)


def test_a_continued_run_follows_the_new_learning_rate(tmp_path):
    first = trainer(tmp_path, max_steps=2)
    first.fit(module(learning_rate=0.01, schedule=StepDrop([100])), data())
    first.save_checkpoint(tmp_path / "first.ckpt")
    second = trainer(tmp_path, max_steps=4)
    second.fit(
        module(learning_rate=0.004, schedule=StepDrop([3], factor=0.5)), data(), ckpt_path=tmp_path / "first.ckpt"
    )
    assert [optimizer.param_groups[0]["lr"] for optimizer in second.optimizers] == [0.002, 0.002]


def test_what_is_logged_and_at_which_step(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    callbacks = [TrainingProgress(), ImageGrid(num_images=3)]
    options = {
        "max_steps": 4,
        "val_check_interval": 4,
        "log_every_n_steps": 2,
        "logger": logger,
        "callbacks": callbacks,
    }
    trainer(tmp_path, **options).fit(module(usage_window=2, metrics=[PSNR()]), data())
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    terms = ("total", "reconstruction", "adversarial", "sample_entropy", "codebook_entropy", "commitment")
    expected = {f"train/generator/{term}" for term in (*terms, "gradient_norm")}
    expected |= {f"train/discriminator/{term}" for term in ("total", "hinge", "lecam", "gradient_norm")}
    expected |= {"train/psnr", "train/learning_rate", "train/codebook_utilization", "train/images_per_second"}
    expected |= {"validation/psnr_image", "validation/codebook_utilization"}
    assert expected <= scalars
    assert [event.step for event in events.Scalars("train/generator/total")] == [2, 4]
    assert 0 < events.Scalars("train/codebook_utilization")[-1].value <= 1
    assert events.Scalars("validation/psnr_image")[0].step == 4
    assert events.Tags()["images"] == ["validation/originals_above_reconstructions"]


def test_learning_rate_follows_the_schedule(tmp_path):
    run = trainer(tmp_path, max_steps=3)
    run.fit(module(learning_rate=0.01, schedule=StepDrop([2], factor=0.5)), data())
    assert [optimizer.param_groups[0]["lr"] for optimizer in run.optimizers] == [0.005, 0.005]


@pytest.mark.long
def test_training_lowers_the_loss(tmp_path):
    training = module(discriminator=False, learning_rate=5e-3)
    losses = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(float(pl_module.record.latest["generator/reconstruction"]))

    trainer(tmp_path, max_steps=60, callbacks=[Record()], limit_val_batches=0).fit(training, data())
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


def test_contradictions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="generator_loss must be one of .*relativistic"):
        module(adversary={"generator_loss": "relativistic"})
    with pytest.raises(ValueError, match="micro_batch_size must be at least 1"):
        module(micro_batch_size=0)
    with pytest.raises(ValueError, match="no multiple of micro_batch_size 3"):
        trainer(tmp_path).fit(module(micro_batch_size=3), data())


def test_a_quantizer_with_moving_averages_learns_its_share_of_the_step():
    training = module(discriminator=False)
    training.tokenizer.quantizer = VectorQuantizer(16, 6, ema_decay=0.9)
    training.generator_objective.use_weights_of(training.tokenizer.quantizer)
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    training.accumulate_gradients(pixels.split(2))
    assert training.tokenizer.quantizer.step_fraction == 0.25


@pytest.mark.long
def test_two_processes_train_alike(tmp_path):
    """DDP over gloo: equal parameters on both ranks, each gradient reduced once a step, no buffer broadcast.

    Two processes with two micro-batches each end where one process with the whole batch ends, with its figures of
    validation, over 7 images that do not divide evenly.
    """
    script = Path(__file__).with_name("train_with_ddp.py")
    assert "sync_dist" not in commands.run(sys.executable, script, tmp_path).stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["world_size"] == 2
    assert result["largest_difference_between_ranks"] == 0.0
    assert result["reduced_elements_per_step"] == [result["num_parameters"]] * 3
    assert not result["broadcast_buffers"]
    assert not result["find_unused_parameters"]
    assert result["lecam_agrees"]
    assert result["compiled"]["difference"] < 1e-9
    assert result["compiled"]["largest_difference_between_ranks"] == 0.0
    assert result["compiled"]["num_graphs"] == 4  # encoder, decoder, discriminator twice
    assert result["compiled"]["reduced_twice"]
    options = {"discriminator": False, "objective": {"quantizer_weights": SEPARABLE}, "metrics": [PSNR(), SSIM()]}
    single = module(micro_batch_size=8, **options)
    run = trainer(tmp_path, precision="64-true")
    run.fit(single, data(global_batch_size=8))
    joint = torch.load(tmp_path / "parameters.pt")
    assert torch.allclose(joint, parameters(single.tokenizer), rtol=1e-7, atol=1e-9)
    assert result["num_validated"] == 7
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"validation/psnr_image", "validation/ssim_image", "validation/codebook_perplexity"} <= set(figures)
    assert figures == pytest.approx({name: float(value) for name, value in run.callback_metrics.items()}, rel=1e-5)
    assert load_tokenizer(tmp_path / "last.ckpt").codebook_size == 64


def test_two_metrics_with_a_figure_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"PSNR gives \['psnr_batch4', .*, which another metric gives already"):
        trainer(tmp_path, max_steps=1, num_sanity_val_steps=1).fit(module(metrics=[PSNR(), PSNR()]), data())
