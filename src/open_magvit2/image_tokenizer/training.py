"""Training of the image tokenizer: `AdversarialTraining` with the tokenizer's loss, metrics and codebook usage."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from open_magvit2.common import checkpoints, images
from open_magvit2.common.codebook import CodeHistogram
from open_magvit2.common.construction import check_rebuilds, check_state, describe, other_packages
from open_magvit2.common.precision import at_least_float32
from open_magvit2.image_tokenizer import old_checkpoints
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.part_checks import check_outputs
from open_magvit2.image_tokenizer.pretrained import (
    IMAGE_SIZE_KEY,
    TOKENIZER_KEY,
    check_same_architecture,
    load_tokenizer,
)
from open_magvit2.losses.adversarial import Adversary
from open_magvit2.losses.objective import GeneratorObjective
from open_magvit2.protocols import EvaluationBatch, Metric, Sample
from open_magvit2.training.adversarial import AdversarialTraining, GeneratorPass
from open_magvit2.training.codebook_usage import CodebookUsage
from open_magvit2.training.compilation import compile_networks, use_channels_last
from open_magvit2.training.recomputation import Recomputation, set_recomputation
from open_magvit2.training.transformer_recomputation import set_transformer_recomputation

_USAGE_KEY = "codebook_usage"  # of a checkpoint


class ImageTokenizerTraining(AdversarialTraining):
    """Trains an `ImageTokenizer`, alone or against an adversary.

    Args:
        tokenizer: the generator.
        generator_objective: weights of its terms.
        adversary: None trains without a GAN term.
        metrics: computed over the validation images of all ranks, besides codebook utilization; logged as
            validation/<name>.
        usage_window: training steps over which codebook utilization is counted.
        recompute: part of the tokenizer that the backward pass computes again instead of keeping it: none,
            activations or blocks (`training.recomputation`; of transformers, `training.transformer_recomputation`).
            Less memory, more time, the same numbers; a transformer's activations up to rounding.
        compiled: fuse encoder, decoder, discriminator and LPIPS with `torch.compile`, which takes minutes in the first
            step. Validation runs uncompiled.
        options: of `AdversarialTraining`.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        generator_objective: GeneratorObjective,
        adversary: Adversary | None = None,
        metrics: Sequence[Metric] = (),
        usage_window: int = 100,
        recompute: Recomputation = "none",
        compiled: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(adversary, **options)
        self.tokenizer = tokenizer
        self.generator_objective = generator_objective
        generator_objective.use_weights_of(tokenizer.quantizer)
        self.metrics = list(metrics)
        set_recomputation(tokenizer, recompute)
        set_transformer_recomputation(tokenizer, recompute)
        if self.channels_last:
            use_channels_last(self)
        if compiled:
            compile_networks(*self.networks())
        self.record.codebook_size = tokenizer.codebook_size
        self._usage = CodebookUsage(tokenizer.codebook_size, usage_window)
        self._validation_usage = CodeHistogram(tokenizer.codebook_size)

    @property
    def generator(self) -> nn.Module:
        """The tokenizer."""
        return self.tokenizer

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's."""
        return self.tokenizer.decoder.last_layer

    def networks(self) -> list[nn.Module | None]:
        """Those that `compiled` compiles; None for one that this training is without."""
        discriminator = None if self.adversary is None else self.adversary.discriminator
        return [self.tokenizer.encoder, self.tokenizer.decoder, discriminator, self.generator_objective.perceptual]

    def on_fit_start(self) -> None:
        """Refuse parts, images and batches that do not fit, before the first image is read."""
        check_rebuilds(self.tokenizer)
        check_state(self)
        image_size = getattr(self.trainer.datamodule, "image_size", None)
        if image_size is not None:
            size = _check_image_size(self.tokenizer, image_size)
            if other_packages(self.tokenizer):
                check_outputs(self.tokenizer, size)
        super().on_fit_start()

    def initialize_from(self, path: Path, weights: Literal["ema", "raw"] = "ema", discriminator: bool = False) -> None:
        """Start from the weights in a file, published ones included, instead of random ones.

        Args:
            path: a file that `load_tokenizer` opens; of parts of a user's packages, those that this tokenizer has.
            weights: which of the tokenizer's.
            discriminator: take the raw weights of the adversary as well, LeCAM's averages included.

        Raises:
            ValueError: for weights that are not in the file or do not fit; nothing is loaded then.
        """
        tokenizer = load_tokenizer(path, weights=weights, allowed_modules=other_packages(self.tokenizer))
        checkpoints.check_fits(self.tokenizer, tokenizer.state_dict(), path)
        if discriminator:
            content = checkpoints.read(path)
            old_checkpoints.rename(content)
            state = content.get("current_model_state") or content.get("state_dict") or {}
            adversary = checkpoints.with_prefix(state, "adversary.")
            if self.adversary is None or not adversary:
                raise ValueError(
                    f"init_discriminator true needs an adversary in the configuration and in {path}; it is missing in "
                    f"the {'configuration' if self.adversary is None else 'file'}. Use init_discriminator false"
                )
            checkpoints.load_strictly(self.adversary, adversary, path)
        checkpoints.load_strictly(self.tokenizer, tokenizer.state_dict(), path)

    def generate(self, real: Tensor) -> GeneratorPass:
        """A training pass of the tokenizer, with its objective."""
        output = self.tokenizer(real)
        self._usage.update(output.indices)
        distance, total, terms = self.generator_objective(real, output.reconstruction, output.losses, self.global_step)
        return GeneratorPass(
            output.reconstruction, total, distance, terms, {"psnr": _psnr(real, output.reconstruction).mean()}
        )

    def losses(self, real: Tensor, fraction: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """See `AdversarialTraining.losses`; a quantizer with moving averages learns the fraction as well."""
        if hasattr(self.tokenizer.quantizer, "step_fraction"):
            self.tokenizer.quantizer.step_fraction = fraction
        return super().losses(real, fraction)

    def step_figures(self, step: int) -> dict[str, float]:
        """Codebook utilization and entropy, at the end of a window."""
        return self._usage.figures(step)

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        """Update the metrics with this rank's images."""
        image = self.to_input(batch["image"])
        with torch.compiler.set_stance("force_eager"):  # graphs are for training: see `compile_networks`
            reconstruction, indices = self.tokenizer.reconstruct(image)
        self._validation_usage.update(indices)
        evaluated = EvaluationBatch(at_least_float32(reconstruction), batch["index"], image, indices)
        for metric in self.metrics:
            metric.update(evaluated)

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics over all ranks.

        Raises:
            ValueError: for two metrics with a figure of one name.
        """
        figures = {f"codebook_{name}": value for name, value in self._validation_usage.compute().items()}
        self._validation_usage.reset()
        for metric in self.metrics:
            found = metric.compute()
            if repeated := sorted(figures.keys() & found.keys()):
                raise ValueError(f"{type(metric).__name__} gives {repeated}, which another metric gives already")
            figures |= found
            metric.reset()
        # They are the same on all ranks already.
        warnings.filterwarnings("ignore", r"It is recommended to use `self\.log\('(validation/|step')")
        self.log_dict({f"validation/{name}": value for name, value in figures.items()})
        self.log("step", float(self.global_step))  # the loggers' step axis; Lightning's own is one step behind here

    def quick_figures(self, batch: Sample) -> dict[str, Tensor]:
        """PSNR in dB, float [B], for `ExponentialMovingAverage` to compare its weights with the raw ones."""
        image = self.to_input(batch["image"])
        return {"psnr": _psnr(image, self.tokenizer.reconstruct(image)[0])}

    def pictures(self, batch: Sample, number: int) -> dict[str, Tensor]:
        """A grid of a batch's first images above their reconstructions, for `ImageGrid`."""
        pixels = batch["image"][:number]
        reconstruction, _ = self.tokenizer.reconstruct(self.to_input(pixels))
        return {"validation/originals_above_reconstructions": images.grid([pixels, images.to_uint8(reconstruction)])}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how to build the tokenizer and the size of its training images; keep the codes counted so far."""
        checkpoint[TOKENIZER_KEY] = describe(self.tokenizer)
        checkpoint[IMAGE_SIZE_KEY] = getattr(self.trainer.datamodule, "image_size", None)
        checkpoint[_USAGE_KEY] = self._usage.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another architecture; go on counting codes."""
        old_checkpoints.rename(checkpoint)
        check_same_architecture(self, self.tokenizer, checkpoint)
        self._usage.load_state_dict(checkpoint.get(_USAGE_KEY))


def _check_image_size(tokenizer: ImageTokenizer, size: int | Sequence[int]) -> tuple[int, ...]:
    """The sides of the images, which fit the tokenizer."""
    sides = tuple(size) if isinstance(size, Sequence) else (size,) * len(tokenizer.size_rule.multiple)
    try:
        tokenizer.size_rule.check(sides)
    except ValueError as error:
        raise ValueError(
            f"data.init_args.image_size is {size}, which does not fit the tokenizer: {error}; or change "
            "channel_multipliers (one entry less halves the downsampling)"
        ) from error
    return sides


def _psnr(image: Tensor, reconstruction: Tensor) -> Tensor:
    """PSNR in dB of each image, float [B], for the progress bar; evaluation/metrics/psnr.py has the figure to quote."""
    error = (image - at_least_float32(reconstruction.detach()).clamp(-1.0, 1.0)).square().flatten(1).mean(dim=1)
    return images.psnr(error.clamp_min(1e-10), 2.0)
