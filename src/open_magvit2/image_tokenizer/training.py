"""Training of the image tokenizer: the LightningModule, two networks with an optimizer each.

One batch of the loader is one training step. It is cut into micro-batches that fit the device; their gradients add up
before both optimizers step once. The two objectives share one backward pass: neither network's gradient depends on
the other's loss (the discriminator is frozen where the generator's loss passes it, and sees detached reconstructions
in its own), so their sum has exactly the gradients of the two, DDP reduces each parameter once, and a loss scale
covers both.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from open_magvit2.common import distributed
from open_magvit2.common.codebook import CodeHistogram
from open_magvit2.common.construction import describe
from open_magvit2.common.freezing import frozen
from open_magvit2.common.images import to_float
from open_magvit2.common.precision import at_least_float32
from open_magvit2.image_tokenizer.compilation import compile_networks
from open_magvit2.image_tokenizer.micro_batches import check_global_batch, cut
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.pretrained import IMAGE_SIZE_KEY, TOKENIZER_KEY, check_same_architecture
from open_magvit2.losses.objective import DiscriminatorObjective, GeneratorObjective
from open_magvit2.protocols import Metric, Sample
from open_magvit2.training import finite, optimizers_step
from open_magvit2.training.schedules import Constant, Schedule

_USAGE_KEY = "codebook_usage"  # of a checkpoint


class ImageTokenizerTraining(pl.LightningModule):
    """Trains an `ImageTokenizer` against a discriminator.

    Args:
        tokenizer: the generator.
        generator_objective: weights of the generator's terms.
        discriminator: image -> patch logits; None trains without a GAN term.
        discriminator_objective: weights of the discriminator's terms.
        micro_batch_size: images that pass the networks at once on a device. A rank's share of the global batch is cut
            into pieces of this size, and must be a multiple of it if it is larger. The entropy penalty and BatchNorm
            see one micro-batch: 8, the published batch of a device, keeps the recipe on any number of devices.
        learning_rate: of both Adam optimizers.
        betas: of both.
        schedule: factor on the learning rate by training step.
        gradient_clip_norm: largest norm of each network's gradient; None does not clip.
        metrics: computed over the validation images of all ranks, beside codebook utilization; logged as
            validation/<name>.
        usage_window: training steps over which codebook utilization is counted.
        recompute: part of the tokenizer that the backward pass computes again instead of keeping it: none,
            activations or blocks (`layers.recomputation`). Less memory, more time, the same numbers.
        compiled: fuse encoder, decoder, discriminator and LPIPS with `torch.compile`, at the first step's cost.
            Validation runs uncompiled.
        channels_last: keep convolution weights, and so activations, with channels innermost. For half precision on a
            GPU together with `compiled`: PyTorch's own group norm copies such activations there and back.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        generator_objective: GeneratorObjective,
        discriminator: nn.Module | None = None,
        discriminator_objective: DiscriminatorObjective | None = None,
        micro_batch_size: int = 8,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.9),
        schedule: Schedule | None = None,
        gradient_clip_norm: float | None = None,
        metrics: Sequence[Metric] = (),
        usage_window: int = 100,
        recompute: str = "none",
        compiled: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        for name, value in (("micro_batch_size", micro_batch_size), ("usage_window", usage_window)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        has_discriminator = discriminator is not None
        if has_discriminator != (generator_objective.adversarial_weight > 0):
            raise ValueError(
                f"discriminator is {type(discriminator).__name__}, but adversarial_weight is "
                f"{generator_objective.adversarial_weight}: for training without a GAN term set the one to null and "
                "the other to 0, else neither"
            )
        if not has_discriminator and discriminator_objective is not None:
            raise ValueError("discriminator_objective is given without a discriminator: set it to null as well")
        if has_discriminator:
            discriminator_objective = discriminator_objective or DiscriminatorObjective()
            starts = (generator_objective.adversarial_start, discriminator_objective.start)
            if starts[0] != starts[1]:
                raise ValueError(
                    f"generator_objective.adversarial_start is {starts[0]}, discriminator_objective.start {starts[1]}: "
                    "both networks must begin at the same step"
                )
        self.tokenizer = tokenizer
        self.discriminator = discriminator
        self.generator_objective = generator_objective
        self.discriminator_objective = discriminator_objective
        self.micro_batch_size = micro_batch_size
        self.learning_rate = learning_rate
        self.betas = tuple(betas)
        self.schedule = Constant() if schedule is None else schedule
        self.gradient_clip_norm = gradient_clip_norm
        self.metrics = list(metrics)
        self.usage_window = usage_window
        self.latest_terms: dict[str, Any] = {}  # this rank's at the last step, on the device; for the progress bar
        self.latest_scalars: dict[str, float] = {}  # over all ranks, as logged at the last step; empty between logs
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compiled:
            compile_networks(tokenizer.encoder, tokenizer.decoder, discriminator, generator_objective.perceptual)
        self._usage = CodeHistogram(tokenizer.codebook_size)
        self._validation_usage = CodeHistogram(tokenizer.codebook_size)
        self._saved_usage: dict[str, Tensor] | None = None  # from a checkpoint, until the device is known

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator and, if there is one, for the discriminator."""
        networks = [self.tokenizer] + ([self.discriminator] if self.discriminator is not None else [])
        return [optimizers_step.fused_adam(network, self.learning_rate, self.betas) for network in networks]

    def on_fit_start(self) -> None:
        """Refuse images and batches that do not fit, before the first image is read; go on counting codes."""
        image_size = getattr(self.trainer.datamodule, "image_size", None)
        if image_size is not None and image_size % self.tokenizer.downsampling:
            raise ValueError(
                f"data.init_args.image_size is {image_size}, no multiple of {self.tokenizer.downsampling}, the "
                "tokenizer's downsampling: change it, or channel_multipliers (one entry less halves the downsampling)"
            )
        if self._saved_usage is not None and self.global_rank == 0:  # the counts are of all ranks together
            self._usage.restore(*(self._saved_usage[name].to(self.device) for name in ("codes", "counts")))
        self._saved_usage = None
        global_batch_size = getattr(self.trainer.datamodule, "global_batch_size", None)
        if global_batch_size is not None:
            check_global_batch(global_batch_size, self.trainer.world_size, self.micro_batch_size)

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        """One training step on this rank's share of the global batch: uint8 images [B, 3, H, W]."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        terms = self.train_on(
            batch["image"], _as_list(self.optimizers()), self.manual_backward, self._gradient_sync, scaler
        )
        self._log_training(terms)

    def train_on(
        self,
        pixels: Tensor,
        optimizers: Sequence[Any],
        backward: Callable[[Tensor], Any] = Tensor.backward,
        gradient_sync: Callable[[bool], AbstractContextManager[Any]] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
    ) -> dict[str, Any]:
        """The work of a training step; without a Trainer it runs on these defaults, as benchmarks do.

        Args:
            pixels: uint8 [B, 3, H, W].
            optimizers: of `configure_optimizers`, or what Lightning wrapped around them.
            backward: computes gradients of a total.
            gradient_sync: context of a micro-batch's backward pass, given whether it is the last.
            scaler: of the losses in fp16.

        Returns:
            the terms of the objectives, scalars on the device, as <network>/<term>.
        """
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with finite.finite_buffers(self):
            terms = self._accumulate_gradients(cut(pixels, self.micro_batch_size), backward, gradient_sync)
        learning_rate = self.learning_rate * self.schedule(self.global_step)
        return terms | optimizers_step.take(optimizers, learning_rate, self.gradient_clip_norm, scaler)

    def _accumulate_gradients(
        self,
        micro_batches: Sequence[Tensor],
        backward: Callable[[Tensor], Any],
        gradient_sync: Callable[[bool], AbstractContextManager[Any]],
    ) -> dict[str, Any]:
        """Backward passes of the micro-batches; the terms of their losses, averaged."""
        terms: dict[str, Any] = {}
        num_images = sum(len(pixels) for pixels in micro_batches)
        for number, pixels in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            fraction = len(pixels) / num_images
            image = to_float(pixels).to(self.dtype).contiguous(memory_format=self._memory_format)
            total, new_terms = self._losses(image, fraction)
            with gradient_sync(last):
                backward(total * fraction)
            for name, term in new_terms.items():
                terms[name] = terms.get(name, 0.0) + term * fraction
        return terms

    def _losses(self, image: Tensor, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both objectives on a micro-batch, and its terms as <network>/<term>."""
        output = self.tokenizer(image)
        self._usage.update(output.indices)
        fake_logits = None
        if self.discriminator is not None:
            with frozen(self.discriminator):
                fake_logits = self.discriminator(output.reconstruction)
        total, terms = self.generator_objective(
            image,
            output.reconstruction,
            output.losses,
            self.global_step,
            fake_logits,
            self.tokenizer.decoder.last_layer,
        )
        total = finite.nan_unless_finite(total)
        logged = {f"generator/{name}": term for name, term in terms.items()}
        logged["psnr"] = _psnr(image, output.reconstruction)
        if self.discriminator is not None:
            real_logits = self.discriminator(image)
            fake_logits = self.discriminator(output.reconstruction.detach())
            discriminator_total, terms = self.discriminator_objective(
                real_logits, fake_logits, self.global_step, fraction
            )
            total = total + finite.nan_unless_finite(discriminator_total)
            logged |= {f"discriminator/{name}": term for name, term in terms.items()}
        return total, logged

    def _gradient_sync(self, last: bool) -> Any:
        """DDP reduces gradients in the backward pass of the last micro-batch alone."""
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()

    def _log_training(self, terms: dict[str, Any]) -> None:
        """Write means over ranks to the loggers at Lightning's interval, at the training step's own number.

        In between nothing waits for the device. Not through `self.log`: with manual optimization its step axis counts
        batches from 0, and its own interval would drop the utilization of a window that ends in between.
        """
        self.latest_terms = terms
        step = self.global_step
        scalars: dict[str, float] = {}
        if step % self.usage_window == 0:
            usage = self._usage.compute()
            scalars |= {f"train/codebook_{name}": usage[name] for name in ("utilization", "entropy_bits")}
            self._usage.reset()
        if step % self.trainer.log_every_n_steps == 0:
            scalars |= {f"train/{name}": value for name, value in self._means(terms).items()}
        self.latest_scalars = scalars
        if scalars:
            for logger in self.loggers:
                logger.log_metrics(scalars, step=step)

    def _means(self, terms: Mapping[str, Any]) -> dict[str, float]:
        """Terms averaged over ranks, which cross from the device in one transfer; the host's numbers, alike on all."""
        names = [name for name, term in terms.items() if isinstance(term, Tensor) and term.device == self.device]
        values = torch.stack([terms[name].to(torch.float32) for name in names])
        means = dict(zip(names, distributed.all_reduce_mean(values).tolist(), strict=True))
        return {name: means[name] if name in means else float(term) for name, term in terms.items()}

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        """Update the metrics with this rank's images."""
        image = to_float(batch["image"]).to(self.dtype)
        with torch.compiler.set_stance("force_eager"):  # graphs are training's: see `compile_networks`
            reconstruction, indices = self.tokenizer.reconstruct(image)
        self._validation_usage.update(indices)
        for metric in self.metrics:
            metric.update(image, at_least_float32(reconstruction), indices, batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics over all ranks."""
        figures = {f"codebook_{name}": value for name, value in self._validation_usage.compute().items()}
        self._validation_usage.reset()
        for metric in self.metrics:
            figures |= metric.compute()
            metric.reset()
        self.log_dict({f"validation/{name}": value for name, value in figures.items()})
        self.log("step", float(self.global_step))  # the loggers' step axis; Lightning's own is one step behind here

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how to build the tokenizer and the size of its training images; keep the codes counted so far."""
        checkpoint[TOKENIZER_KEY] = describe(self.tokenizer)
        checkpoint[IMAGE_SIZE_KEY] = getattr(self.trainer.datamodule, "image_size", None)
        checkpoint[_USAGE_KEY] = dict(zip(("codes", "counts"), self._usage.merged(), strict=True))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another architecture; take the counts of codes, which move to the device in `on_fit_start`."""
        check_same_architecture(self, self.tokenizer, checkpoint)
        self._saved_usage = checkpoint.get(_USAGE_KEY)


def _as_list(item: Any) -> list[Any]:
    return list(item) if isinstance(item, (list, tuple)) else [item]


def _psnr(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean over images of the PSNR in dB, for the progress bar; evaluation/metrics/psnr.py has the figure to quote."""
    error = (image - at_least_float32(reconstruction.detach()).clamp(-1.0, 1.0)).square().flatten(1).mean(dim=1)
    return (10.0 * torch.log10(4.0 / error.clamp_min(1e-10))).mean()
