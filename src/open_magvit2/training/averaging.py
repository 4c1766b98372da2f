"""Moving averages of the weights (Polyak & Juditsky 1992), through Lightning's weight-averaging callback.

They live in the callback, outside the module that DDP wraps. Validation runs on them, and a checkpoint holds them under
`state_dict`, where whoever loads it finds them first, and the raw weights under `current_model_state`.
"""

from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage(WeightAveraging):
    """average <- decay * average + (1 - decay) * weights after every training step, in fused kernels.

    Buffers (BatchNorm's statistics, LeCAM's averages) are copied, not averaged.

    Args:
        decay: 0.999 in the published recipe.
        start_step: training steps before averaging begins; until then the average is a copy of the weights.
    """

    def __init__(self, decay: float = 0.999, start_step: int = 0) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay
        self.start_step = start_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every training step; the average is a plain copy of the weights up to `start_step`."""
        if step_idx is None:
            return False
        if step_idx < self.start_step and self._average_model is not None:
            self._average_model.n_averaged.zero_()  # torch copies instead of averaging while this is 0
        return True
