"""A checkpoint in the form training writes, of a random tokenizer: for tests of what people do with checkpoints."""

from pathlib import Path

import torch
from torch import nn

from open_magvit2.common.construction import describe
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.generators.pretrained import GENERATOR_KEY
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.image_tokenizer.pretrained import IMAGE_SIZE_KEY, TOKENIZER_KEY
from open_magvit2.quantizers.lookup_free import LookupFreeQuantizer


def save_small_checkpoint(
    path: Path, image_size: int | list[int] | None = None, quantizer: nn.Module | None = None
) -> Path:
    """Write a tokenizer with 4x downsampling, by default of 64 codes; its averaged and its raw weights differ.

    It claims to be trained on images of `image_size`, or does not say.
    """
    torch.manual_seed(0)
    quantizer = quantizer or LookupFreeQuantizer(6)
    options = {"channels": 8, "channel_multipliers": (1, 1, 1), "num_residual_blocks": 1, "norm_groups": 4}
    averaged, raw = (ImageTokenizer.convolutional(quantizer, **options) for _ in range(2))
    states = [{f"tokenizer.{name}": value for name, value in model.state_dict().items()} for model in (averaged, raw)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {TOKENIZER_KEY: describe(averaged), "state_dict": states[0], "current_model_state": states[1]}
    if image_size is not None:
        content[IMAGE_SIZE_KEY] = image_size
    torch.save(content, path)
    return path


def save_small_generator(path: Path, kind: str = "masked") -> Path:
    """Write a random generator of the small tokenizer's tokens of 16 x 16 images, as training writes it."""
    torch.manual_seed(0)
    sizes = {"bits": (3, 3), "grid": (4, 4), "num_classes": 5, "width": 32, "num_heads": 2, "hidden": 48}
    if kind == "masked":
        generator = MaskedGenerator(**sizes, num_blocks=2)
    else:
        generator = AutoregressiveGenerator(**sizes, num_spatial_blocks=2, num_factorized_blocks=1)
    state = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    torch.save({GENERATOR_KEY: describe(generator), "state_dict": state}, path)
    return path
