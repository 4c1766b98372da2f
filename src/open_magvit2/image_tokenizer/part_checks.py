"""Check of a user's encoder, quantizer and decoder on random images before a training begins."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from open_magvit2.common.construction import class_path
from open_magvit2.common.outputs import check_indices


def check_outputs(tokenizer: nn.Module, size: Sequence[int]) -> None:
    """Refuse parts whose outputs are not what `protocols` says.

    Args:
        tokenizer: an `ImageTokenizer`; it is left as it was.
        size: (H, W) of the images.

    Raises:
        ValueError: naming the part, what it gives and what is expected.
    """
    weight = next(tokenizer.parameters(), torch.zeros(()))
    modes = [(module, module.training) for module in tokenizer.modules()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        image = torch.rand(2, getattr(tokenizer.encoder, "image_channels", 3), *size).to(weight).mul_(2).sub_(1)
        try:
            latent = tokenizer.eval().encoder(image)
            grid = tuple(tokenizer.encoder.latent_shape(size))
            _check(tokenizer.encoder, latent, "a latent", (2, tokenizer.quantizer.latent_channels, *grid))
            found = tokenizer.quantizer.quantize(latent)
            name = class_path(type(tokenizer.quantizer))
            if not isinstance(found, tuple) or len(found) != 2:
                raise ValueError(f"{name}.quantize gives a {type(found).__name__}, expected (codes, indices)")
            codes, indices = found
            _check(tokenizer.quantizer, codes, "codes", tuple(latent.shape))
            check_indices(indices, (2, *tokenizer.token_shape(size)), tokenizer.codebook_size, name)
            back = tokenizer.quantizer.indices_to_codes(indices)
            _check(tokenizer.quantizer, back, "codes of indices", tuple(latent.shape))
            _check(tokenizer.decoder, tokenizer.decoder(codes), "a reconstruction", tuple(image.shape))
        finally:
            for module, is_training in modes:
                module.training = is_training


def _check(part: nn.Module, found: Tensor, what: str, expected: tuple[int, ...]) -> None:
    if not isinstance(found, Tensor) or tuple(found.shape) != expected:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{class_path(type(part))} gives {what} {shape}, expected {expected}: see open_magvit2.protocols"
        )
