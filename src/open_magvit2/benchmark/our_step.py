"""One training step of ours without a Trainer: the code that training runs, to measure beside `plain_step`."""

from typing import Any

import torch
from torch import Tensor, nn

from open_magvit2.benchmark.mixed_precision import FLOAT32, MixedPrecision
from open_magvit2.image_tokenizer.training import ImageTokenizerTraining
from open_magvit2.training.ema import move_averages


class OurTraining:
    """Steps of an `ImageTokenizerTraining` and the averages of its weights; no logging, no loops.

    Args:
        training: trained in place.
        decay: of the averages.
    """

    def __init__(self, training: ImageTokenizerTraining, decay: float = 0.999) -> None:
        self.training = training
        self.optimizers = training.configure_optimizers()
        self.decay = decay
        self.weights = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        self.averages = [weight.detach().clone() for weight in self.weights]

    def step(self, pixels: Tensor, precision: MixedPrecision = FLOAT32) -> dict[str, Any]:
        """One training step on uint8 images [B, 3, H, W]; the terms of the objectives. Gradients stay in `.grad`."""
        with precision.autocast():
            terms = self.training.train_on(
                pixels.to(self.weights[0].device, non_blocking=True),
                precision.wrapped(self.optimizers),
                precision.backward,
                scaler=precision.scaler,
            )
        self.update_averages()
        return terms

    def modules(self) -> nn.Module:
        """All that lies on the device but optimizers and averages."""
        perceptual = self.training.generator_objective.perceptual
        return nn.ModuleList([self.training] if perceptual is None else [self.training, perceptual.network])

    @torch.no_grad()
    def update_averages(self) -> None:
        """As the callback `ExponentialMovingAverage` does after a step."""
        move_averages(self.averages, self.weights, self.decay)
