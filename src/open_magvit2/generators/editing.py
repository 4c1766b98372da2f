"""Inpainting, outpainting and class-conditional editing: a masked generator makes some tokens of an image anew.

Source: MaskGIT (Chang et al., arXiv 2202.04200), section 4.3. Inpainting and editing make the tokens of an area anew,
outpainting those around it; editing gives the area another class than the image's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from open_magvit2.common.images import to_float, to_uint8
from open_magvit2.common.precision import inference
from open_magvit2.generators.decoding import image_size
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.generators.masking import MaskedSampling, sample_masked
from open_magvit2.protocols import Tokenizer


def box_area(size: Sequence[int], box: Sequence[int], outside: bool = False) -> Tensor:
    """The area bool [H, W] of a box (top, left, bottom, right) in pixels, or what is outside of it.

    Raises:
        ValueError: for a box that is empty or reaches out of the image.
    """
    (height, width), (top, left, bottom, right) = size, box
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(
            f"expected a box TOP LEFT BOTTOM RIGHT inside {height} x {width} pixels, got {' '.join(map(str, box))}"
        )
    area = torch.zeros(height, width, dtype=torch.bool)
    area[top:bottom, left:right] = True
    return ~area if outside else area


def new_tokens(area: Tensor, grid: Sequence[int]) -> Tensor:
    """The tokens bool [*grid] that an area bool [H, W] touches: those that are made anew."""
    return F.adaptive_max_pool2d(area[None].float(), tuple(grid))[0] > 0


def edit(
    generator: MaskedGenerator,
    tokenizer: Tokenizer,
    image: Tensor,
    area: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    settings: MaskedSampling | None = None,
    keep_pixels: bool = False,
) -> Tensor:
    """Make an area of an image anew, once a label. Every token that the area touches is made anew.

    Args:
        generator, tokenizer: on one device.
        image: uint8 [3, H, W], of the size of `decoding.image_size`.
        area: bool [H, W], true where pixels are to be made anew.
        labels: int64 [B] in [0, num_classes).
        seeds: one a label.
        settings: see `MaskedSampling`.
        keep_pixels: show the image's own pixels, not the reconstruction's, wherever the tokens were kept.

    Returns:
        uint8 [B, 3, H, W] on the CPU. With an empty area it is the reconstruction.

    Raises:
        ValueError: for a generator that cannot keep tokens, a tokenizer that does not fit it, or other sizes.
    """
    if not isinstance(generator, MaskedGenerator):
        raise ValueError(f"editing keeps tokens: it needs a masked generator, got {type(generator).__name__}")
    size = image_size(generator, tokenizer)
    if tuple(image.shape) != (3, *size) or tuple(area.shape) != size:
        raise ValueError(f"expected an image and an area of {size}, got {tuple(image.shape)} and {tuple(area.shape)}")
    number, device = len(labels), generator.device
    is_new = new_tokens(area, generator.grid)
    with inference(device):
        indices = tokenizer.tokenize(to_float(image[None].to(device))).expand(number, *generator.grid)
        known = indices, ~is_new.to(device).expand(number, *generator.grid)
        pixels = to_uint8(tokenizer.detokenize(sample_masked(generator, labels, seeds, settings, known))).cpu()
    if keep_pixels:
        shown = F.interpolate(is_new[None, None].float(), size)[0] > 0
        pixels = torch.where(shown, pixels, image.cpu())
    return pixels
