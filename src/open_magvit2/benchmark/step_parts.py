"""The parts of a training step, each alone with its forward and backward pass, of ours and of the baseline."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from open_magvit2.benchmark import plain_networks
from open_magvit2.benchmark.our_step import OurTraining
from open_magvit2.benchmark.plain_step import PlainTraining
from open_magvit2.common.freezing import frozen
from open_magvit2.common.images import to_float

Parts = dict[str, Callable[[], Any]]


def ours(steps: OurTraining, pixels: Tensor) -> Parts:
    """The parts of our step, on a batch; one step must have been made, so that there are gradients."""
    training = steps.training
    tokenizer, discriminator = training.tokenizer, training.adversary.discriminator
    image = to_float(pixels)
    latent, codes, reconstruction = _between(lambda: tokenizer.encode(image), tokenizer.quantizer, tokenizer.decode)

    def discriminate() -> None:
        with frozen(discriminator):
            logits = discriminator(reconstruction)
        torch.autograd.grad(logits.mean(), reconstruction)
        logits = discriminator(reconstruction.detach()).mean() + discriminator(image).mean()
        torch.autograd.grad(logits, list(discriminator.parameters()))

    return {
        "encoder": _forward_backward(tokenizer.encode, image, list(tokenizer.encoder.parameters())),
        "quantizer": lambda: _quantize(tokenizer.quantizer, latent),
        "decoder": _forward_backward(tokenizer.decode, codes, [codes, *tokenizer.decoder.parameters()]),
        "LPIPS": lambda: torch.autograd.grad(
            training.generator_objective.perceptual(reconstruction, image).mean(), reconstruction
        ),
        "discriminator": discriminate,
        "optimizers": lambda: _optimize(steps.optimizers),
        "averaging": steps.update_averages,
    }


def plain(steps: PlainTraining, pixels: Tensor) -> Parts:
    """The same parts of the baseline."""
    tokenizer, discriminator = steps.tokenizer, steps.discriminator
    image = to_float(pixels)

    def encode(batch: Tensor) -> Tensor:
        return plain_networks.encode(tokenizer.encoder, batch)

    def decode(batch: Tensor) -> Tensor:
        return plain_networks.decode(tokenizer.decoder, batch)

    latent, codes, reconstruction = _between(lambda: encode(image), tokenizer.quantizer, decode)

    def lpips_twice() -> None:
        torch.autograd.grad(steps.lpips(image, reconstruction).mean(), reconstruction)
        steps.lpips(image, reconstruction).mean()

    def discriminate() -> None:
        inputs = [reconstruction, *discriminator.parameters()]
        torch.autograd.grad(discriminator(reconstruction).mean(), inputs)
        logits = discriminator(reconstruction.detach()).mean() + discriminator(image).mean()
        torch.autograd.grad(logits, list(discriminator.parameters()))

    return {
        "encoder": _forward_backward(encode, image, list(tokenizer.encoder.parameters())),
        "quantizer": lambda: _quantize(steps.quantizer, latent),
        "decoder": _forward_backward(decode, codes, [codes, *tokenizer.decoder.parameters()]),
        "LPIPS": lpips_twice,
        "discriminator": discriminate,
        "optimizers": lambda: _optimize(steps.optimizers),
        "averaging": steps.update_averages,
    }


def _between(
    encode: Callable[[], Tensor], quantizer: Any, decode: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, codes and reconstruction as leaves, so that each part begins and ends there."""
    with torch.no_grad():
        latent = encode()
        codes = quantizer.quantize(latent)[0]
        reconstruction = decode(codes)
    return latent.requires_grad_(), codes.requires_grad_(), reconstruction.requires_grad_()


def _forward_backward(network: Callable[[Tensor], Tensor], batch: Tensor, inputs: list[Tensor]) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(network(batch).mean(), inputs)


def _quantize(quantizer: Any, latent: Tensor) -> None:
    codes, _, losses = quantizer(latent)
    torch.autograd.grad(codes.mean() + sum(losses.values()), latent)


def _optimize(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.step()
