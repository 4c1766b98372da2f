"""What whole training steps are measured of: the baseline, and ours by its options, in each precision."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from open_magvit2.benchmark import models
from open_magvit2.benchmark.mixed_precision import MixedPrecision, Precision
from open_magvit2.benchmark.training_step import StepPeak, peak_of_step
from open_magvit2.training.recomputation import Recomputation

_MOST_HALVINGS = 40  # of the loss scale, from 2^16: below, no gradient is too large


class Variant(NamedTuple):
    """A way to train."""

    name: str
    recompute: Recomputation | None  # None: the baseline
    compiled: bool = False  # and channels last


BASELINE = Variant("baseline", None)
OURS = Variant("ours, recompute none", "none")
COMPILED = Variant("ours, compiled, channels last", "none", compiled=True)
EAGER = (
    *(BASELINE, OURS),
    Variant("ours, recompute activations", "activations"),
    Variant("ours, recompute blocks", "blocks"),
)


class Steps:
    """Training steps of a variant in a precision, from the same weights as those of every other.

    Args:
        variant: what trains.
        case: the model.
        precision: of its networks.
        device: where; compiled functions of whatever was compiled before are forgotten.
    """

    def __init__(self, variant: Variant, case: models.Case, precision: Precision, device: torch.device) -> None:
        self.variant, self.case, self.precision, self.device = variant, case, precision, device
        if variant.recompute is None:
            self.training: Any = models.make_plain(case, device)
        else:
            self.training = models.make_ours(
                case, device, recompute=variant.recompute, compiled=variant.compiled, channels_last=variant.compiled
            )
        self.surroundings = MixedPrecision(precision, device.type)
        self._forget_compiled()

    def on_batch(self, number: int, image_size: int | None = None) -> Callable[[], Any]:
        """A step on images in the host's memory, as a loader leaves them there.

        Args:
            number: of images.
            image_size: theirs, if not that of the case.
        """
        pixels, floats = models.loaded(number, image_size or self.case.image_size, self.device)
        images = floats if self.variant.recompute is None else pixels
        return lambda: self.training.step(images, self.surroundings)

    def find_loss_scale(self, step: Callable[[], Any]) -> None:
        """Step until the loss scale of fp16 is low enough for both optimizers to step; nothing in other precisions.

        Raises:
            ArithmeticError: if no scale is.
        """
        scaler = self.surroundings.scaler
        for _ in range(_MOST_HALVINGS if scaler is not None else 0):
            before = scaler.get_scale()
            step()
            if scaler.get_scale() >= before:
                return
        if scaler is not None:
            raise ArithmeticError(f"gradients are not finite down to a loss scale of {scaler.get_scale():g}")

    def start_again(self) -> None:
        """After a step that ended half-way, or for another batch: no gradients, and a scaler that has not seen any."""
        self._forget_compiled()
        for optimizer in self.training.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.surroundings.scaler is not None:
            scaler = torch.amp.GradScaler(self.device.type, init_scale=self.surroundings.scaler.get_scale())
            self.surroundings = MixedPrecision(self.precision, self.device.type, scaler)

    def _forget_compiled(self) -> None:
        """Compile anew: functions compiled for other sizes would make these of any size, which are slower."""
        if self.variant.compiled:
            torch.compiler.reset()

    def peak(self, step: Callable[[], Any]) -> StepPeak:
        """Memory of a step at its fullest moment beyond weights, optimizers and averages."""
        return peak_of_step(self.training.optimizers, step, self.device)

    @property
    def loss_scale(self) -> float | None:
        """The scale of fp16; None in other precisions."""
        return None if self.surroundings.scaler is None else self.surroundings.scaler.get_scale()
