"""One training step as the reference works, written from the published recipe: the baseline of every ratio.

(Luo et al., Open-MAGVIT2, arXiv 2409.04410; Yu et al., MAGVIT-v2, arXiv 2310.05737; Esser et al., VQGAN, CVPR 2021.)

It computes what `ImageTokenizerTraining` computes at the published settings, with the same weights, and a test holds
the two to the same losses and gradients. What it does the long way: the entropy penalty as a softmax over 2^K codes,
x sigmoid(x), LPIPS in the generator's pass and again in the discriminator's, gradients of the discriminator's weights
in the generator's pass, two backward passes, LeCAM's averages by way of the host, averages of weights tensor by tensor,
Adam as PyTorch chooses it by itself (tensor by tensor on a CPU, in groups on a GPU), and float images, channels last.

What it shares with ours on a GPU, so that the steps alone are compared: cuDNN's trials of algorithms, TF32, images in
pinned memory. What ours does besides, and pays for: it counts codes, computes PSNR and the gradients' norms, and checks
that losses and gradients are finite.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import baseline_networks
from benchmarks.mixed_precision import FLOAT32, MixedPrecision
from open_magvit2.image_tokenizer.model import ImageTokenizer


class PlainTraining:
    """Trains a tokenizer of LFQ against a discriminator, without a Trainer.

    Args:
        tokenizer: trained in place; its quantizer's temperature and eps are used.
        discriminator: trained in place.
        lpips: the `lpips` package's network (`losses.perceptual.load_lpips`), frozen; None leaves the term out.
        learning_rate, betas: of both Adam optimizers.
        decay: of the averages of both networks' weights.

    The remaining weights are the published ones: 1 reconstruction, 1 LPIPS, 0.1 GAN, 0.1 entropies, 0.25 commitment,
    0.005 LeCAM.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        discriminator: nn.Module,
        lpips: nn.Module | None,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.9),
        decay: float = 0.999,
    ) -> None:
        self.tokenizer, self.discriminator, self.lpips = tokenizer, discriminator, lpips
        first = next(tokenizer.parameters())
        self.device = first.device
        quantizer = tokenizer.quantizer
        self.quantizer = baseline_networks.PlainQuantizer(
            quantizer.num_bits, quantizer.temperature, quantizer.entropy_eps
        )
        self.quantizer = self.quantizer.to(first.device, first.dtype)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=learning_rate, betas=betas)
            for network in (tokenizer, discriminator)
        ]
        self.decay = decay
        self.averages = [
            (p, p.detach().clone()) for network in (tokenizer, discriminator) for p in network.parameters()
        ]
        self.ema_real = torch.zeros((), device=first.device, dtype=first.dtype)
        self.ema_fake = torch.zeros((), device=first.device, dtype=first.dtype)

    def step(self, images: Tensor, precision: MixedPrecision = FLOAT32) -> dict[str, Tensor]:
        """One training step.

        Args:
            images: float [B, H, W, 3] in [-1, 1] on the CPU, as a loader's processes collate them.
            precision: autocast around it; with a scaler, each optimizer's step updates the loss scale.

        Returns:
            detached scalars, named as `ImageTokenizerTraining` names its terms. The gradients stay in `.grad`.
        """
        with precision.autocast():
            terms = self._train_on(self.receive(images), precision)
        self.update_averages()
        return {name: term.detach() for name, term in terms.items()}

    def _train_on(self, image: Tensor, precision: MixedPrecision) -> dict[str, Tensor]:
        """First the generator steps, then the discriminator."""
        generator, discriminator = precision.wrapped(self.optimizers)
        generator.zero_grad()
        latent = baseline_networks.encode(self.tokenizer.encoder, image)
        codes, _, losses = self.quantizer(latent)
        reconstruction = baseline_networks.decode(self.tokenizer.decoder, codes)
        total, terms = self.generator_loss(image, reconstruction, losses)
        precision.backward(total)
        generator.step()
        terms = {"generator/total": total, **{f"generator/{name}": term for name, term in terms.items()}}

        total, more = self.discriminator_loss(image, reconstruction)
        discriminator.zero_grad()
        precision.backward(total)
        discriminator.step()
        return terms | {"discriminator/total": total, **{f"discriminator/{name}": term for name, term in more.items()}}

    def receive(self, images: Tensor) -> Tensor:
        """Send as floats, then to channels first: [B, 3, H, W]."""
        return images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()

    def generator_loss(
        self, image: Tensor, reconstruction: Tensor, losses: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(total, terms); the discriminator's weights get gradients too, which nobody uses."""
        terms = self._distances(image, reconstruction)
        fake_logits = self.discriminator(reconstruction)
        per_image = fake_logits.flatten(1).mean(dim=1)
        terms["adversarial"] = F.binary_cross_entropy_with_logits(per_image, torch.ones_like(per_image))
        entropies = losses["sample_entropy"] - losses["codebook_entropy"]
        total = terms["reconstruction"] + terms.get("perceptual", 0.0) + 0.1 * terms["adversarial"]
        return total + 0.1 * entropies + 0.25 * losses["commitment"], terms | losses

    def discriminator_loss(self, image: Tensor, reconstruction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(total, terms), after computing the distances once more, as a loss module shared by both passes does."""
        self._distances(image, reconstruction)
        real_logits = self.discriminator(image.detach())
        fake_logits = self.discriminator(reconstruction.detach())
        with torch.no_grad():
            decay = 0.999
            self.ema_real = self.ema_real * decay + real_logits.mean().item() * (1 - decay)
            self.ema_fake = self.ema_fake * decay + fake_logits.mean().item() * (1 - decay)
        hinge = 0.5 * (F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean())
        lecam = (F.relu(real_logits - self.ema_fake) ** 2).mean() + (F.relu(self.ema_real - fake_logits) ** 2).mean()
        return hinge + 0.005 * lecam, {"hinge": hinge, "lecam": lecam}

    def modules(self) -> nn.ModuleList:
        """All that lies on the device but optimizers and averages."""
        perceptual = [] if self.lpips is None else [self.lpips]
        return nn.ModuleList([self.tokenizer, self.quantizer, self.discriminator, *perceptual])

    @torch.no_grad()
    def update_averages(self) -> None:
        """One tensor at a time."""
        for weight, average in self.averages:
            average.sub_((1.0 - self.decay) * (average - weight))

    def _distances(self, image: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        terms = {"reconstruction": (image - reconstruction).abs().mean()}
        if self.lpips is not None:
            terms["perceptual"] = self.lpips(image, reconstruction).mean()
        return terms
