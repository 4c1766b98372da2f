"""Common parts of the convolutional families: sizes read off a file's tensors, and taming's names.

Encoder and decoder are those of `image_tokenizer`, with VQGAN's options.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from open_magvit2.common.construction import class_path
from open_magvit2.image_tokenizer.decoder import Decoder
from open_magvit2.image_tokenizer.encoder import Encoder
from open_magvit2.image_tokenizer.model import ImageTokenizer

Names = list[tuple[re.Pattern[str], str]]  # (pattern of our name, its replacement), applied in this order


def patterns(*replacements: tuple[str, str]) -> Names:
    """Compiled (pattern, replacement) pairs."""
    return [(re.compile(pattern), replacement) for pattern, replacement in replacements]


# inside a level, in every family
BLOCK_NAMES = patterns(
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.query\.", ".q."),
    (r"\.key\.", ".k."),
    (r"\.value\.", ".v."),
    (r"(attentions\.\d+|middle\.\d+)\.out\.", r"\1.proj_out."),
    (r"\.attentions\.", ".attn."),
)
# arguments of `Encoder` and `Decoder` in which VQGAN differs from MAGVIT-v2; `vqgan_options` has those of both
VQGAN_ENCODER = {"downsampling": "strided_uncentred", "head_kernel": 3}
VQGAN_DECODER = {"upsampling": "nearest"}
QUANTIZER_NAMES = patterns(
    (r"^encoder\.to_latent\.", "quant_conv."),
    (r"^decoder\.from_codes\.", "post_quant_conv."),
    (r"^quantizer\.codebook$", "quantize.embedding.weight"),
)
# taming-transformers, which latent-diffusion and IBQ kept
TAMING_NAMES = (
    BLOCK_NAMES
    + QUANTIZER_NAMES
    + patterns(
        (r"^encoder\.levels\.(\d+)\.", r"encoder.down.\1."),
        (r"^decoder\.levels\.(\d+)\.", r"decoder.up.\1."),
        (r"\.blocks\.", ".block."),
        (r"\.middle\.0\.", ".mid.block_1."),
        (r"\.middle\.1\.(norm|q|k|v|proj_out)\.", r".mid.attn_1.\1."),
        (r"\.middle\.[12]\.", ".mid.block_2."),
    )
)


def renamed(name: str, names: Names) -> str:
    """A name of ours after all replacements."""
    for pattern, replacement in names:
        name = pattern.sub(replacement, name)
    return name


def has_taming_names(state: Mapping[str, Tensor]) -> bool:
    """Whether a file has the names of taming-transformers and a codebook."""
    is_quantized = "quantize.embedding.weight" in state or "quantize.proj.weight" in state
    return is_quantized and "encoder.mid.block_1.norm1.weight" in state


def has_four_blocks(state: Mapping[str, Tensor]) -> bool:
    """Whether the levels of a file with taming's names have four residual blocks."""
    return "encoder.down.0.block.3.norm1.weight" in state


def describe_taming(state: Mapping[str, Tensor], quantizer: Mapping[str, Any]) -> dict[str, Any]:
    """`describe` for taming's names."""
    return describe(
        state,
        "encoder.down.{}.block".format,
        "decoder.up.{}.block".format,
        quantizer,
        both=vqgan_options("encoder.mid.attn_1.q.weight" in state),
        encoder=VQGAN_ENCODER,
        decoder=VQGAN_DECODER,
    )


def vqgan_options(middle_attention: bool) -> dict[str, Any]:
    """Arguments of `Encoder` and `Decoder` in which VQGAN differs from MAGVIT-v2."""
    return {"bias": True, "num_middle_blocks": 2, "middle_attention": middle_attention}


def describe(
    state: Mapping[str, Tensor],
    down: Callable[[int | str], str],
    up: Callable[[int], str],
    quantizer: Mapping[str, Any],
    both: Mapping[str, Any],
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
) -> dict[str, Any]:
    """The description of a tokenizer (`common.construction.describe`), its sizes read off a state dict.

    Args:
        state: the file's names to tensors.
        down, up: names of the list of blocks of level i of the encoder and the decoder; level 0 is full resolution.
        quantizer: its description.
        both, encoder, decoder: arguments that no shape tells, of both networks or of one.

    Raises:
        ValueError: if a part is missing.
    """
    channels, image_channels = shape(state, "encoder.conv_in.weight", 2)[:2]
    num_levels = max(1, count(state, f"{down('{}')}.0.conv1.weight"))  # without any, the next line says what is missing
    widths = [shape(state, f"{down(level)}.0.conv1.weight")[0] for level in range(num_levels)]
    inside_encoder = shape(state, "encoder.conv_out.weight")[0]
    inside_decoder = shape(state, "decoder.conv_in.weight", 2)[1]
    latent = shape(state, "quant_conv.weight")[0] if "quant_conv.weight" in state else inside_encoder
    sizes = {
        "latent_channels": latent,
        "image_channels": image_channels,
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "norm_groups": 32,
        **both,
    }

    def part(kind: type, blocks: Callable[[int], str], inside: int, others: Mapping[str, Any]) -> dict[str, Any]:
        attention = [re.sub(r"\.\w+$", ".attn.0.q.weight", blocks(level)) in state for level in range(len(widths))]
        arguments = {
            **sizes,
            "num_residual_blocks": count(state, f"{blocks(0)}.{{}}.conv1.weight"),
            "attention_levels": [level for level, has_attention in enumerate(attention) if has_attention],
            "bottleneck_channels": inside if "quant_conv.weight" in state else None,
            **others,
        }
        return {"class_path": class_path(kind), "init_args": arguments}

    arguments = {
        "encoder": part(Encoder, down, inside_encoder, encoder),
        "decoder": part(Decoder, up, inside_decoder, decoder),
        "quantizer": dict(quantizer),
    }
    return {"class_path": class_path(ImageTokenizer), "init_args": arguments}


def count(state: Mapping[str, Tensor], name: str) -> int:
    """How many of the names "level.0.weight", "level.1.weight", ... a file has; `name` is "level.{}.weight"."""
    number = 0
    while name.format(number) in state:
        number += 1
    return number


def codebook_shape(state: Mapping[str, Tensor]) -> Sequence[int]:
    """(number of codes, their channels)."""
    return shape(state, "quantize.embedding.weight", 2)


def shape(state: Mapping[str, Tensor], name: str, axes: int = 1) -> Sequence[int]:
    """The shape of a tensor that must be there, with at least so many axes.

    Raises:
        ValueError: if it is not.
    """
    if name not in state:
        raise ValueError(f"the file holds only a part of a tokenizer: {name} is missing")
    if state[name].ndim < axes:
        raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, expected {axes} axes or more")
    return state[name].shape
