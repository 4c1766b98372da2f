"""Training of generators: what the autoregressive and the masked one share.

A batch holds images, which the frozen tokenizer turns into tokens in float32, or tokens. What a step draws at random
(dropped classes, masks) is a function of the seed, the step and the sample's number, whatever the number of devices.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from open_magvit2.common import construction, distributed, images
from open_magvit2.common.arguments import at_least, integer, within
from open_magvit2.common.precision import at_least_float32, float32
from open_magvit2.data.order import random_stream
from open_magvit2.generators import checks, pretrained
from open_magvit2.generators.drawing import NotFiniteError
from open_magvit2.generators.prediction import Prediction, mean, of_group
from open_magvit2.losses.cross_entropy import cross_entropy
from open_magvit2.protocols import Tokenizer
from open_magvit2.training import finite
from open_magvit2.training.micro_batches import MicroBatchTraining, split
from open_magvit2.training.optimizers import fused_adamw
from open_magvit2.training.record import TrainingRecord
from open_magvit2.training.schedules import Schedule
from open_magvit2.training.sharding import is_sharded
from open_magvit2.training.transformer_recomputation import TransformerRecomputation, set_transformer_recomputation


class GeneratorTraining(MicroBatchTraining, ABC):
    """Trains a generator on the tokens of images and their classes. A subclass says what the generator is asked.

    Args:
        generator: with `bits`, `grid`, `num_classes`, `null_class` and `factorization`.
        tokenizer: of images, frozen, e.g. a `PretrainedTokenizer`; None for a source of tokens, without pictures.
        micro_batch_size: samples that pass the generator at once on a device. A larger share of the global batch must
            be a multiple of it.
        learning_rate, betas: of AdamW.
        weight_decay: of AdamW; of matrices only, embeddings among them: norms and biases do not decay.
        schedule: factor on the learning rate by training step; constant by default.
        gradient_clip_norm: largest norm of the gradient; None does not clip.
        class_dropout: probability that a sample's class is replaced by the null class, for guidance.
        label_smoothing: of the loss; the logged losses of single sub-tokens are without.
        recompute: none, activations or blocks (`training.transformer_recomputation`): less memory from one to the next;
            blocks take a third more time.
        seed: of dropped classes and masks.
        pictured_classes: one picture each at validation; None for the first eight.

    Raises:
        ValueError: for a number out of range, a class outside the generator's table, or a generator of a user that a
            checkpoint could not rebuild.
    """

    def __init__(
        self,
        generator: nn.Module,
        tokenizer: Tokenizer | None = None,
        micro_batch_size: int = 32,
        learning_rate: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        schedule: Schedule | None = None,
        gradient_clip_norm: float | None = 1.0,
        class_dropout: float = 0.1,
        label_smoothing: float = 0.0,
        recompute: TransformerRecomputation = "activations",
        seed: int = 0,
        pictured_classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(micro_batch_size, learning_rate, betas, schedule, gradient_clip_norm)
        at_least(0, weight_decay=weight_decay)
        integer(0, seed=seed)
        within(0, 1, class_dropout=class_dropout, label_smoothing=label_smoothing)
        self.generator = generator
        construction.check_rebuilds(generator)
        self._description = construction.describe(generator)  # now: sharding changes the class
        self._tokenizer = [tokenizer]  # not a part: neither trained, nor averaged, nor saved
        self.weight_decay = weight_decay
        self.class_dropout = class_dropout
        self.label_smoothing = label_smoothing
        self.seed = seed
        first_eight = range(min(8, generator.num_classes))
        self.pictured_classes = list(first_eight if pictured_classes is None else pictured_classes)
        if self.pictured_classes:
            integer(0, generator.num_classes - 1, pictured_classes=self.pictured_classes)
        set_transformer_recomputation(generator, recompute)
        shown = {"loss": "loss", "accuracy": f"accuracy_{len(generator.bits) - 1}"}
        self.record = TrainingRecord(unit="tokens", units_per_sample=generator.num_tokens, shown=shown)
        self._made_by: dict[str, Any] = {}
        self._sums: Tensor | None = None  # of validation

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The frozen tokenizer."""
        return self._tokenizer[0]

    @abstractmethod
    def draw(self, stream: torch.Generator, step: int | None) -> dict[str, Tensor]:
        """What is drawn at random for one sample besides its class, on the CPU: tensors by name, stacked to a batch.

        Args:
            stream: of random numbers.
            step: number of training steps so far; None for validation.
        """

    @abstractmethod
    def predict(self, sub_tokens: Tensor, labels: Tensor, drawn: Mapping[str, Tensor]) -> Prediction:
        """Ask the generator about sub-tokens int64 [B, N, G] of classes int64 [B], with what was drawn for each."""

    @abstractmethod
    def sample(self, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Indices int64 [B, *grid] of new images of classes int64 [B]."""

    def figures(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Further figures from the losses of the sub-tokens in nats, loss_0, loss_1, ...; none by default."""
        return {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW in one kernel."""
        return fused_adamw(self.generator, self.learning_rate, self.betas, self.weight_decay)

    def setup(self, stage: str) -> None:
        """Move the tokenizer to the device, in evaluation mode; let each device draw its own dropout."""
        # Lightning warns that this module's hook takes the place of the data module's, which has none.
        warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer`")
        if hasattr(self.tokenizer, "to"):
            self.tokenizer.to(self.trainer.strategy.root_device)
        if isinstance(self.tokenizer, nn.Module):
            self.tokenizer.eval().requires_grad_(False)
        torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)

    def on_fit_start(self) -> None:
        """Refuse data, a tokenizer and a generator that do not fit each other, before the first sample is read."""
        self._made_by = checks.check_source(self.generator, self.tokenizer, self.trainer.datamodule, self._made_by)
        super().on_fit_start()

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Draw what the step needs, and check classes and tokens, while all that is on the host."""
        is_training = self.trainer.training
        return self.with_draws(batch, self.global_step if is_training else None)

    def with_draws(self, batch: dict[str, Any], step: int | None) -> dict[str, Any]:
        """A batch with its tensors alone and what is drawn for its samples at a step; None for validation's draws."""
        checks.check_classes(batch["label"], self.generator.num_classes)
        if "tokens" in batch:
            self.generator.factorization.check(batch["tokens"])
        kept = {name: batch[name] for name in ("image", "tokens", "label") if name in batch}
        rows = []
        for index in batch["index"].tolist():
            numbers = ("generator", self.seed, index) if step is None else ("generator", self.seed, index, step)
            stream = torch.Generator().manual_seed(int(random_stream(*numbers).integers(2**63)))
            is_dropped = torch.rand((), generator=stream) < self.class_dropout
            rows.append({"is_dropped": is_dropped & (step is not None), **self.draw(stream, step)})
        return kept | {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One training step on this rank's share of the global batch."""
        self.log_step(self.train_on(batch, self.optimizers(), step=self.global_step, **self.backward_options()))

    def train_on(
        self,
        batch: Mapping[str, Tensor],
        optimizer: Any,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        gradient_sync: Callable[[bool], AbstractContextManager[Any]] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
        step: int = 0,
    ) -> dict[str, Any]:
        """The work of a training step, without a Trainer on these defaults.

        Args:
            batch: of `with_draws`, on the device.
            optimizer: of `configure_optimizers`, or what Lightning wrapped around it.
            backward: computes the gradients of a total.
            gradient_sync: context of a micro-batch's backward pass, from whether it is the last.
            scaler: of the losses in fp16.
            step: number of training steps before this one.

        Returns:
            scalars on the device: loss, loss_<g> and accuracy_<g> of each sub-token, gradient_norm; the learning rate.
        """
        optimizer.zero_grad(set_to_none=True)
        columns = {name: split(values, self.micro_batch_size) for name, values in batch.items()}
        number = len(columns["label"])
        terms: dict[str, Any] = {}
        for piece in range(number):
            total, new_terms = self.losses({name: pieces[piece] for name, pieces in columns.items()})
            with gradient_sync(piece == number - 1):
                backward(finite.nan_unless_finite(total) / number)
            for name, term in new_terms.items():
                terms[name] = terms.get(name, 0.0) + term / number
        terms |= self.figures(terms)
        terms |= self.step_optimizers([optimizer], step, scaler)
        return terms | {"gradient_norm": self.record.gradient_norms["generator"]}

    def losses(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(total with graph, detached scalars) of a micro-batch; the total sums the mean losses of the groups."""
        sub_tokens = self.sub_tokens(batch)
        labels = batch["label"].masked_fill(batch["is_dropped"], self.generator.null_class)
        prediction = self.predict(sub_tokens, labels, batch)
        terms, total = {}, torch.zeros((), device=labels.device)
        for group, logits in enumerate(prediction.logits):
            target, asked = sub_tokens[..., group], of_group(prediction.in_metrics, group)
            objective, nats = cross_entropy(logits, target, self.label_smoothing)
            total = total + mean(objective, of_group(prediction.weight, group))
            terms[f"loss_{group}"] = mean(nats, asked)
            terms[f"accuracy_{group}"] = mean((logits.detach().argmax(dim=-1) == target).float(), asked)
        return total, {"loss": total.detach(), **terms}

    @torch.no_grad()
    def sub_tokens(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Sub-tokens int64 [B, N, G] of a batch: of its tokens, or of its images uint8, in float32 outside autocast."""
        if "tokens" in batch:
            indices = batch["tokens"]
        else:
            pixels = batch["image"]
            with float32(pixels.device.type):
                indices = self.tokenizer.tokenize(images.to_float(pixels))
        return self.generator.factorization.split(indices.flatten(1), is_checked=True)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Sum up the losses of the sub-tokens that are asked, and how many the generator gets right."""
        sub_tokens = self.sub_tokens(batch)
        prediction = self.predict(sub_tokens, batch["label"], batch)
        rows = []
        for group, logits in enumerate(prediction.logits):
            target, asked = sub_tokens[..., group], of_group(prediction.in_metrics, group)
            asked = torch.ones_like(target, dtype=torch.bool) if asked is None else asked
            logits = at_least_float32(logits)
            nats = nn.functional.cross_entropy(logits.movedim(-1, 1), target, reduction="none")
            is_right = logits.argmax(dim=-1) == target
            rows.append(torch.stack([(values * asked).double().sum() for values in (nats, is_right, asked)]))
        sums = torch.stack(rows)
        self._sums = sums if self._sums is None else self._sums + sums

    def on_validation_epoch_end(self) -> None:
        """The figures over all ranks."""
        shape = (len(self.generator.bits), 3)
        sums = torch.zeros(shape, dtype=torch.float64, device=self.device) if self._sums is None else self._sums
        self._sums = None
        sums = distributed.all_reduce_sum(sums)
        means = (sums[:, :2] / sums[:, 2:]).tolist()
        losses = {f"loss_{group}": value for group, (value, _) in enumerate(means)}
        figures = {**losses, **self.figures(losses), **{f"accuracy_{g}": value for g, (_, value) in enumerate(means)}}
        figures["loss"] = sum(losses.values())
        self.log_dict({f"validation/{name}": value for name, value in figures.items()})
        self.log("step", float(self.global_step))  # the loggers' step axis; Lightning's own is one step behind here

    def pictures(self, batch: Any, number: int) -> dict[str, Tensor]:
        """A row of new images, one a class of `pictured_classes`, for `ImageGrid`; always with the same seeds."""
        classes = self.pictured_classes[:number]
        if self.tokenizer is None or not classes or is_sharded(self.generator):
            return {}
        try:
            indices = self.sample(torch.tensor(classes, device=self.device), list(range(len(classes))))
        except NotFiniteError as error:  # no reason to end a training: its health decides
            warnings.warn(f"no pictures at step {self.global_step}: {error}", stacklevel=2)
            return {}
        with float32(self.device.type):
            pixels = images.to_uint8(self.tokenizer.detokenize(indices))
        return {"validation/samples_by_class": images.grid([pixels])}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how to build the generator, and which tokenizer made its tokens."""
        checkpoint |= {pretrained.GENERATOR_KEY: self._description, pretrained.MADE_BY_KEY: dict(self._made_by)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another generator; remember the tokenizer, which `on_fit_start` compares."""
        pretrained.check_same_generator(self, self._description, checkpoint)
        self._made_by = dict(checkpoint[pretrained.MADE_BY_KEY])
