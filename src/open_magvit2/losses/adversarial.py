"""The adversarial terms: pure functions of discriminator logits [B, ...], each a float32 scalar."""

import torch.nn.functional as F
from torch import Tensor

from open_magvit2.common.precision import at_least_float32


def non_saturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """mean softplus(-logit), each image's patch logits averaged first (Goodfellow et al. 2014; MAGVIT-v2)."""
    return F.softplus(-at_least_float32(fake_logits).flatten(1).mean(dim=1)).mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """-mean logit (Lim & Ye, "Geometric GAN", 2017; VQGAN)."""
    return -at_least_float32(fake_logits).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """0.5 (mean relu(1 - real) + mean relu(1 + fake)) (Lim & Ye 2017)."""
    return 0.5 * (
        F.relu(1.0 - at_least_float32(real_logits)).mean() + F.relu(1.0 + at_least_float32(fake_logits)).mean()
    )


def vanilla_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """0.5 (mean softplus(-real) + mean softplus(fake)): binary cross entropy (Goodfellow et al. 2014)."""
    return 0.5 * (F.softplus(-at_least_float32(real_logits)).mean() + F.softplus(at_least_float32(fake_logits)).mean())


GENERATOR_LOSSES = {"non_saturating": non_saturating_generator_loss, "hinge": hinge_generator_loss}
DISCRIMINATOR_LOSSES = {"hinge": hinge_discriminator_loss, "vanilla": vanilla_discriminator_loss}
