"""Any generator trains against an adversary on the base class, images and clips alike."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from open_magvit2.losses.adversarial import Adversary
from open_magvit2.training.adversarial import AdversarialTraining, GeneratorPass
from open_magvit2.training.ema import ExponentialMovingAverage
from open_magvit2.training.health import TrainingHealth
from open_magvit2.training.micro_batches import split
from open_magvit2.training.progress import TrainingProgress


class Convolutions(AdversarialTraining):
    """An autoencoder of one convolution, in two or three dimensions."""

    def __init__(self, num_axes: int, **options) -> None:
        convolution = nn.Conv2d if num_axes == 2 else nn.Conv3d
        torch.manual_seed(0)
        adversary = options.pop("adversary", Adversary(convolution(3, 1, 3, padding=1)))
        super().__init__(adversary, **options)
        self.network = convolution(3, 3, 3, padding=1)

    @property
    def generator(self) -> nn.Module:
        return self.network

    @property
    def last_layer(self) -> nn.Parameter:
        return self.network.weight

    def generate(self, real: torch.Tensor) -> GeneratorPass:
        fake = self.network(real)
        error = (real - fake).abs().mean()
        return GeneratorPass(fake, error, error, {"error": error.detach()}, {})


SHAPES = {2: (3, 8, 8), 3: (3, 5, 8, 8)}


def loader(num_axes: int) -> torch.utils.data.DataLoader:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 256, (12, *SHAPES[num_axes]), dtype=torch.uint8, generator=generator)
    return torch.utils.data.DataLoader([{"image": sample, "skipped": ""} for sample in samples], batch_size=4)


@pytest.mark.parametrize("num_axes", [2, 3])
@pytest.mark.parametrize("adaptive", [False, True])
def test_images_and_clips_train_with_the_callbacks(tmp_path, num_axes, adaptive):
    module = Convolutions(num_axes, micro_batch_size=2, channels_last=True, gradient_clip_norm=1.0)
    module.adversary.adaptive_weight = adaptive
    before = [p.detach().clone() for p in module.parameters()]
    callbacks = [ExponentialMovingAverage(0.5), TrainingHealth(), TrainingProgress()]
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=3, default_root_dir=tmp_path, callbacks=callbacks, logger=False
    )
    trainer.fit(module, loader(num_axes))
    assert trainer.global_step == 3
    assert all(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    names = {"error", "total", "adversarial", "adversarial_weight", "gradient_norm"}
    assert {f"generator/{name}" for name in names} <= set(module.record.latest)
    assert {"discriminator/hinge", "discriminator/lecam", "learning_rate"} <= set(module.record.latest)
    assert set(module.record.gradient_norms) == {"generator", "discriminator"}


@pytest.mark.parametrize("num_axes", [2, 3])
def test_micro_batches_have_the_gradient_of_the_batch(num_axes):
    pixels = next(iter(loader(num_axes)))["image"]
    gradients = []
    for size in (4, 1):
        module = Convolutions(num_axes, micro_batch_size=size, adversary=None).double()
        module.accumulate_gradients(split(pixels, size))
        gradients.append(module.network.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-12)


def test_a_generator_without_an_adversary_has_one_optimizer():
    module = Convolutions(2, adversary=None)
    (optimizer,) = module.configure_optimizers()
    terms = module.train_on(next(iter(loader(2)))["image"], [optimizer])
    assert not any(name.startswith("discriminator") or name == "generator/adversarial" for name in terms)


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match=r"5 samples a step.*no multiple of micro_batch_size 2"):
        split(torch.zeros(5, 1), 2)
    assert [len(piece) for piece in split(torch.zeros(3, 1), 8)] == [3]


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -1.0])
def test_a_schedule_that_gives_no_learning_rate_is_refused_before_the_weights_are_lost(factor):
    training = Convolutions(2, adversary=None, schedule=lambda step: factor)
    before = training.network.weight.detach().clone()
    with pytest.raises(ValueError, match=r"gives a learning rate of \S+ at step 0"):
        training.train_on(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), training.configure_optimizers())
    assert torch.equal(training.network.weight, before)
