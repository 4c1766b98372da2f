"""LeCAM regularization of the discriminator (Tseng et al., "Regularizing GANs under Limited Data", CVPR 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_magvit2.common import distributed
from open_magvit2.common.arguments import within
from open_magvit2.common.precision import at_least_float32, check_can_average


class LeCAM(nn.Module):
    """mean relu(real - ema_fake)^2 + mean relu(ema_real - fake)^2, with moving averages of the mean logits.

    The averages are buffers, so that checkpoints carry them, and means over all ranks, so that ranks agree.

    Args:
        decay: of the averages, per training step.

    Raises:
        ValueError: for a decay out of range; in `update`, for averages in 16 bits, which would stand still.
    """

    ema_real: Tensor
    ema_fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        within(0, 1, decay=decay)
        self.decay = decay
        self.register_buffer("ema_real", torch.zeros(()))
        self.register_buffer("ema_fake", torch.zeros(()))

    @torch.no_grad()
    def update(self, real_logits: Tensor, fake_logits: Tensor, fraction: float = 1.0) -> None:
        """Move the averages towards these logits.

        Args:
            real_logits, fake_logits: [B, ...].
            fraction: share of a training step that these logits are; a step in m micro-batches updates m times with
                1/m and so moves as far as one that is not cut.
        """
        check_can_average(self.ema_real, "LeCAM")
        means = torch.stack([at_least_float32(real_logits).mean(), at_least_float32(fake_logits).mean()])
        means = distributed.all_reduce_mean(means)
        averages = torch.stack([self.ema_real, self.ema_fake])
        means = torch.where(means.isfinite(), means, averages)  # one overflow in fp16 would stay in them for ever
        decay = self.decay**fraction
        self.ema_real.mul_(decay).add_(means[0], alpha=1.0 - decay)
        self.ema_fake.mul_(decay).add_(means[1], alpha=1.0 - decay)

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The regularizer, a float32 scalar, against the present averages."""
        real = F.relu(at_least_float32(real_logits) - self.ema_fake).square().mean()
        fake = F.relu(self.ema_real - at_least_float32(fake_logits)).square().mean()
        return real + fake
