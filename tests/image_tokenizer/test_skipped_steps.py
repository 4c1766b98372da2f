"""A loss or gradient that is not finite changes nothing that lasts, in float32, bf16 and under a loss scale."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision
from small_training import data, module, trainer

from open_magvit2.training import finite
from open_magvit2.training.ema import ExponentialMovingAverage


class Spoil(Callback):
    """Makes weights give NaN in one forward pass, as overflowing activations would, and puts them right again."""

    def __init__(self, network: str, at_step: int) -> None:
        self.network, self.at_step = network, at_step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at_step:
            self.weight = next(pl_module.get_submodule(self.network).parameters())
            self.kept = self.weight.detach().clone()
            self.before = parameters(pl_module)
            self.weight.data.view(-1)[0] = float("nan")

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.at_step:
            self.weight.data.copy_(self.kept)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.at_step + 1:
            self.after = parameters(pl_module)


def state(training) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in training.state_dict().items()}


def parameters(training) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(training.parameters()).detach().clone()


def steps_taken(run) -> list[set[int]]:
    """The steps that each optimizer's moments have seen."""
    return [{int(moments["step"]) for moments in optimizer.state.values()} for optimizer in run.optimizers]


def fit(tmp_path, spoil: Callback, precision: str = "32-true"):
    training = module(micro_batch_size=8)
    averaging = ExponentialMovingAverage(decay=0.5)
    scaler = {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))]}
    precision_options = scaler if precision == "16-mixed" else {"precision": precision}
    run = trainer(tmp_path, max_steps=4, limit_val_batches=0, callbacks=[spoil, averaging], **precision_options)
    run.fit(training, data())
    return training, run, averaging


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_nan_from_the_generator_stays_out_of_everything_that_lasts(tmp_path, precision):
    spoil = Spoil("tokenizer", at_step=1)
    training, run, averaging = fit(tmp_path, spoil, precision)
    assert torch.equal(spoil.before, spoil.after)  # the discriminator saw NaN as well: neither network stepped
    assert run.global_step == 4
    assert steps_taken(run) == [{3}, {3}]
    for tensors in (state(training), averaging.average_module.state_dict()):  # LeCAM and BatchNorm are among them
        assert all(value.isfinite().all() for value in tensors.values())
    assert all(v.isfinite().all() for o in run.optimizers for s in o.state.values() for v in s.values())
    assert training.record.gradient_norms["generator"].isfinite()  # and the next steps are steps


def test_nan_in_the_discriminators_activations_reaches_both_networks_and_skips_both(tmp_path):
    spoil = Spoil("adversary.discriminator", at_step=1)
    training, run, _ = fit(tmp_path, spoil)
    assert torch.equal(spoil.before, spoil.after)
    assert steps_taken(run) == [{3}, {3}]
    assert all(value.isfinite().all() for value in state(training).values())


class Overflow(Callback):
    """The discriminator's gradient alone is infinite at step 1."""

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 1:
            next(pl_module.adversary.discriminator.parameters()).grad.fill_(float("inf"))


def test_a_network_whose_gradient_is_finite_steps(tmp_path):
    training, run, _ = fit(tmp_path, Overflow())
    assert steps_taken(run) == [{4}, {3}]
    assert all(value.isfinite().all() for value in state(training).values())


def test_an_infinite_loss_with_a_finite_gradient_is_skipped(tmp_path):
    training = module(discriminator=False)
    objective = training.generator_objective.forward

    def infinite_at_step_1(image, reconstruction, losses, step):
        distance, total, terms = objective(image, reconstruction, losses, step)
        return distance, (total + float("inf") if step == 1 else total), terms

    training.generator_objective.forward = infinite_at_step_1
    run = trainer(tmp_path, max_steps=3, limit_val_batches=0)
    run.fit(training, data())
    assert steps_taken(run) == [{2}]


def test_a_run_without_trouble_is_bitwise_what_it_was_without_the_guard(tmp_path, monkeypatch):
    results = []
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(finite, "nan_unless_finite", lambda loss: loss)
            monkeypatch.setattr(finite, "skip_unless_finite", lambda optimizer, norm: None)
        training = module()
        trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(training, data())
        results.append(state(training))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
