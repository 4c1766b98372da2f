"""Watches a training's numbers: steps that were skipped, losses that jump, codebooks that collapse; warns or stops.

Skipping itself is `finite.py`'s business and needs no callback. This one counts on the device and reads the counts at
the trainer's log steps, where the host waits for the device anyway; what it decides is the same on every rank, because
it looks at reduced values alone.
"""

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from open_magvit2.training.stopping import save_before_stopping

logger = logging.getLogger(__name__)

Action = Literal["warn", "stop"]
_NORM = "/gradient_norm"


class TrainingStopped(RuntimeError):  # noqa: N818 - what the policy asked for, not always a mistake
    """Training ended itself because its numbers went wrong; the message says why, and where its state is saved."""


class TrainingHealth(Callback):
    """Logs train/skipped_steps (float32, bf16) or train/overflows (under a loss scale); warns, saves and stops.

    Of the LightningModule it reads `latest_terms["<network>/gradient_norm"]`, equal on all ranks and not finite where
    that network's step was skipped; `latest_scalars`, what was logged at this step over all ranks; and
    `tokenizer.codebook_size`.

    Args:
        stop_after_skipped: steps in a row, each with a network that was not stepped, after which training stops. Under
            a loss scale every one halves it: after 25 of them no gradient overflows any more, it is NaN.
        spike_terms: logged losses, positive ones, to watch for spikes.
        spike_factor: a value above so many times the median of the last `spike_window` logged ones is a spike.
        spike_window: number of logged values; none is judged before there are so many.
        on_spike: "warn" or "stop".
        lowest_utilization: share of the codebook in use, within the training module's usage_window, below which it
            has collapsed.
        lowest_entropy: entropy of the codes in use as a share of log2(codebook_size), below which it has collapsed.
        codebook_from_step: no verdict on the codebook before: a new model uses few codes.
        on_collapse: "warn" or "stop".
    """

    def __init__(
        self,
        stop_after_skipped: int = 25,
        spike_terms: Sequence[str] = ("generator/reconstruction",),
        spike_factor: float = 3.0,
        spike_window: int = 20,
        on_spike: Action = "warn",
        lowest_utilization: float = 0.01,
        lowest_entropy: float = 0.25,
        codebook_from_step: int = 2000,
        on_collapse: Action = "warn",
    ) -> None:
        for name, value in (("stop_after_skipped", stop_after_skipped), ("spike_window", spike_window)):
            if value < 1:
                raise ValueError(f"health.{name} must be at least 1, got {value}")
        if not spike_factor > 1:
            raise ValueError(f"health.spike_factor must be larger than 1, got {spike_factor}")
        for name, share in (("lowest_utilization", lowest_utilization), ("lowest_entropy", lowest_entropy)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"health.{name} must lie in [0, 1], got {share}")
        self.stop_after_skipped = stop_after_skipped
        self.spike_factor = spike_factor
        self.on_spike = on_spike
        self.lowest_utilization = lowest_utilization
        self.lowest_entropy = lowest_entropy
        self.codebook_from_step = codebook_from_step
        self.on_collapse = on_collapse
        self.totals = {"skipped_steps": 0, "overflows": 0}  # as last read
        self._total: torch.Tensor | int = 0  # of this precision's kind; on the device between two readings
        self._in_a_row: torch.Tensor | int = 0
        self._history = {term: deque(maxlen=spike_window) for term in spike_terms}
        self._warned: set[str] = set()  # what was said and has not recovered since

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self._kind = "overflows" if scaled else "skipped_steps"
        start = (self.totals[self._kind], int(self._in_a_row))
        self._total, self._in_a_row = torch.tensor(start, device=pl_module.device).unbind()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        norms = [value for name, value in pl_module.latest_terms.items() if name.endswith(_NORM)]
        skipped = torch.stack(norms).isfinite().all().logical_not()
        self._total = self._total + skipped
        self._in_a_row = (self._in_a_row + 1) * skipped
        scalars = pl_module.latest_scalars
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._read_skipped(trainer, pl_module)
            self._check_spikes(trainer, scalars)
        if "train/codebook_utilization" in scalars and trainer.global_step >= self.codebook_from_step:
            self._check_codebook(trainer, scalars, pl_module.tokenizer.codebook_size)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run may end between two log steps."""
        if trainer.global_step % trainer.log_every_n_steps:
            self._read_skipped(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        if torch.is_tensor(self._total):
            self.totals[self._kind] = int(self._total)
        return {
            "totals": dict(self.totals),
            "in_a_row": int(self._in_a_row),
            "history": {term: list(values) for term, values in self._history.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals = dict(state_dict["totals"])
        self._in_a_row = state_dict["in_a_row"]
        for term, values in self._history.items():
            values.extend(state_dict["history"].get(term, []))

    def _read_skipped(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before = self.totals[self._kind]
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        self.totals[self._kind] = total
        for metrics in trainer.loggers:
            metrics.log_metrics({f"train/{self._kind}": total}, step=trainer.global_step)
        if in_a_row >= self.stop_after_skipped:
            networks = [
                name.removesuffix(_NORM)
                for name, value in pl_module.latest_terms.items()
                if name.endswith(_NORM) and not value.isfinite()
            ]
            self._stop(
                trainer,
                f"the loss or the gradient was not finite in the last {in_a_row} steps (in the last one: of the "
                f"{' and the '.join(networks)}). No weights took it in. Try a lower model.init_args.learning_rate, "
                "model.init_args.gradient_clip_norm 1.0, or trainer.precision bf16-mixed or 32-true",
            )
        if total > before and self._kind == "skipped_steps":
            self._say(
                trainer,
                f"{total - before} step(s) since the last log were skipped: a loss or gradient was not finite "
                f"({total} in all). {self.stop_after_skipped} in a row stop the training (health.stop_after_skipped)",
            )

    def _check_spikes(self, trainer: pl.Trainer, scalars: dict[str, float]) -> None:
        for term, history in self._history.items():
            name = f"train/{term}"
            if name not in scalars:
                known = sorted(key.removeprefix("train/") for key in scalars)
                raise ValueError(f"health.spike_terms names {term!r}, which is not logged; known: {', '.join(known)}")
            value = scalars[name]
            if not math.isfinite(value):
                continue  # a skipped step, counted above
            usual = statistics.median(history) if len(history) == history.maxlen else math.inf
            history.append(value)
            self._verdict(
                trainer,
                name,
                value > self.spike_factor * usual,
                self.on_spike,
                f"{name} is {value:.4g}, more than {self.spike_factor:g} times its median of {usual:.4g} over the last "
                f"{history.maxlen} logged steps. If it does not come down by itself, continue from a checkpoint before "
                "it with a lower model.init_args.learning_rate or with model.init_args.gradient_clip_norm 1.0",
            )

    def _check_codebook(self, trainer: pl.Trainer, scalars: dict[str, float], codebook_size: int) -> None:
        used, entropy = scalars["train/codebook_utilization"], scalars["train/codebook_entropy_bits"]
        most = math.log2(codebook_size)
        self._verdict(
            trainer,
            "codebook",
            used < self.lowest_utilization or entropy < self.lowest_entropy * most,
            self.on_collapse,
            f"the codebook has collapsed: {used:.2%} of its {codebook_size:,} codes are in use, with an entropy of "
            f"{entropy:.2f} of {most:.2f} bits (health.lowest_utilization {self.lowest_utilization:.2%}, "
            f"health.lowest_entropy {self.lowest_entropy:.0%}). Try a weight of codebook_entropy further below 0, "
            "entropy_annealing 3 over 2000 steps (generator_objective), or a lower learning rate",
        )

    def _verdict(self, trainer: pl.Trainer, what: str, bad: bool, action: Action, message: str) -> None:
        """Say it once, and again only after it was good in between; or stop."""
        if bad and action == "stop":
            self._stop(trainer, message)
        if bad and what not in self._warned:
            self._say(trainer, message)
        (self._warned.add if bad else self._warned.discard)(what)

    def _say(self, trainer: pl.Trainer, message: str) -> None:
        if trainer.is_global_zero:
            logger.warning("step %d: %s", trainer.global_step, message)

    def _stop(self, trainer: pl.Trainer, message: str) -> NoReturn:
        """Save the state on all ranks, then end the program."""
        path = save_before_stopping(trainer)
        raise TrainingStopped(
            f"training stopped at step {trainer.global_step}: {message}.\n"
            f"The state is saved in {path}; --ckpt_path {path} continues from it."
        )
