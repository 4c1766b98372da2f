"""Base of every GAN training: a generator and its `Adversary`, trained together on images or clips.

The two objectives share one backward pass: neither network's gradient depends on the other's loss (the discriminator is
frozen where the generator's loss passes through it, and its own loss sees detached outputs), so their sum has exactly
the gradients of the two, DDP reduces each parameter once, and a loss scale covers both.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from open_magvit2.common.images import to_float
from open_magvit2.losses.adversarial import Adversary
from open_magvit2.protocols import Sample
from open_magvit2.training import compilation, finite
from open_magvit2.training.micro_batches import MicroBatchTraining, split
from open_magvit2.training.optimizers import fused_adam
from open_magvit2.training.record import TrainingRecord
from open_magvit2.training.schedules import Schedule


class GeneratorPass(NamedTuple):
    """Output and losses of the generator for one micro-batch."""

    fake: Tensor  # [B, C, *size], what the discriminator sees
    total: Tensor  # scalar with graph: everything that the generator minimises but the GAN term
    reconstruction_loss: Tensor  # the part of it whose gradient an adaptive weight of the GAN term is compared with
    terms: dict[str, Tensor]  # detached scalars, logged as train/generator/<term>
    figures: dict[str, Tensor]  # more of them, logged as train/<figure>


class AdversarialTraining(MicroBatchTraining, ABC):
    """Trains a generator, alone or against an `Adversary`. A subclass has the networks and the generator's loss.

    Args:
        adversary: None trains without a GAN term.
        micro_batch_size: samples that pass the networks at once on a device. A larger share of the global batch must
            be a multiple of it. BatchNorm and losses over a batch see one micro-batch: 8, the published batch of a
            device, keeps the recipe on any number of devices.
        learning_rate, betas: of both Adam optimizers.
        schedule: factor on the learning rate by training step; constant by default.
        gradient_clip_norm: largest norm of each network's gradient; None does not clip.
        channels_last: keep convolution weights and activations with channels innermost, for half precision on a GPU
            with compiled networks (PyTorch's own group norm copies such activations there and back).

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(
        self,
        adversary: Adversary | None = None,
        micro_batch_size: int = 8,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.9),
        schedule: Schedule | None = None,
        gradient_clip_norm: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(micro_batch_size, learning_rate, betas, schedule, gradient_clip_norm)
        self.adversary, self.channels_last = adversary, channels_last
        self.record = TrainingRecord(unit="images", shown={"loss": "generator/total", "PSNR": "psnr"})

    @property
    @abstractmethod
    def generator(self) -> nn.Module:
        """The network that the first optimizer trains."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """Weight of the generator's last layer, for `Adversary.adaptive_weight`."""

    @abstractmethod
    def generate(self, real: Tensor) -> GeneratorPass:
        """Run the generator on a micro-batch float [B, C, *size] in [-1, 1]."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator and, if there is one, for the discriminator."""
        networks = [self.generator] + ([] if self.adversary is None else [self.adversary.discriminator])
        return [fused_adam(network, self.learning_rate, self.betas) for network in networks]

    def on_fit_start(self) -> None:
        """Refuse a global batch that the devices cannot split; warn of one that makes micro-batches smaller."""
        super().on_fit_start()
        global_batch_size = getattr(self.trainer.datamodule, "global_batch_size", None)
        share = None if global_batch_size is None else global_batch_size // self.trainer.world_size
        if share is not None and share < self.micro_batch_size:
            rank_zero_warn(
                f"each device gets {share} samples a step, fewer than micro_batch_size {self.micro_batch_size}: the "
                "entropy penalty and BatchNorm see smaller batches than the recipe's"
            )

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        """One training step on this rank's share of the global batch."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        self.log_step(self.train_on(batch["image"], optimizers, **self.backward_options()))

    def train_on(
        self,
        pixels: Tensor,
        optimizers: Sequence[Any],
        backward: Callable[[Tensor], Any] = Tensor.backward,
        gradient_sync: Callable[[bool], AbstractContextManager[Any]] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
    ) -> dict[str, Any]:
        """The work of a training step on a batch uint8 [B, C, *size]; without a Trainer on these defaults.

        `gradient_sync` is the context of a micro-batch's backward pass, from whether it is the last one.

        Returns:
            the terms of the objectives, scalars on the device, as <network>/<term>; the learning rate.
        """
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with finite.finite_buffers(self):
            terms = self.accumulate_gradients(split(pixels, self.micro_batch_size), backward, gradient_sync)
        terms |= self.step_optimizers(optimizers, self.global_step, scaler)
        return terms | {f"{name}/gradient_norm": norm for name, norm in self.record.gradient_norms.items()}

    def accumulate_gradients(
        self,
        micro_batches: Sequence[Tensor],
        backward: Callable[[Tensor], Any] = Tensor.backward,
        gradient_sync: Callable[[bool], AbstractContextManager[Any]] = nullcontext,
    ) -> dict[str, Any]:
        """Backward passes of the micro-batches, uint8 [B, C, *size] each; the terms of their losses, averaged."""
        terms: dict[str, Any] = {}
        num_samples = sum(len(pixels) for pixels in micro_batches)
        for number, pixels in enumerate(micro_batches):
            fraction = len(pixels) / num_samples
            total, new_terms = self.losses(self.to_input(pixels), fraction)
            with gradient_sync(number == len(micro_batches) - 1):
                backward(total * fraction)
            for name, term in new_terms.items():
                terms[name] = terms.get(name, 0.0) + term * fraction
        return terms

    def losses(self, real: Tensor, fraction: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both objectives on a micro-batch float [B, C, *size] in [-1, 1], a fraction of the step's batch.

        Returns:
            (total, terms): a scalar with graph, and detached scalars as <network>/<term>.
        """
        made = self.generate(real)
        total, terms = made.total, dict(made.terms)
        if self.adversary is not None:
            term, new_terms = self.adversary.generator_term(
                made.fake, self.global_step, made.reconstruction_loss, self.last_layer
            )
            total, terms = total + term, terms | new_terms
        terms["total"] = total.detach()
        total = finite.nan_unless_finite(total)
        logged = {f"generator/{name}": term for name, term in terms.items()} | made.figures
        if self.adversary is not None:
            other, terms = self.adversary.discriminator_total(real, made.fake, self.global_step, fraction)
            total = total + finite.nan_unless_finite(other)
            logged |= {f"discriminator/{name}": term for name, term in terms.items()}
        return total, logged

    def to_input(self, pixels: Tensor) -> Tensor:
        """uint8 [B, C, *size] as the networks take it: float in [-1, 1], in their dtype and memory format."""
        real = to_float(pixels).to(self.dtype)
        return compilation.channels_last(real) if self.channels_last else real.contiguous()
