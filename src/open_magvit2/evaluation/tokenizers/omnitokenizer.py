"""OmniTokenizer-VQ (Wang et al., arXiv 2406.09399), its image path: 8,192 codes of 8 channels, 8x downsampling.

imagenet_ucf.ckpt and the like have rotary positions; imagenet_only.ckpt, celebahq.ckpt and ffhq.ckpt a position bias,
which the authors' code leaves out under PyTorch 2.1 and later, though they were trained with it. Latents are normalised
before the search, codes are not. Square images in [-0.5, 0.5], sides multiples of 64.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_magvit2.common.construction import class_path
from open_magvit2.evaluation.tokenizers._convolutional import count, patterns, renamed, shape
from open_magvit2.evaluation.tokenizers._omnitokenizer_networks import OmniDecoder, OmniEncoder
from open_magvit2.image_tokenizer.model import ImageTokenizer
from open_magvit2.quantizers.vector import VectorQuantizer

LABEL = "OmniTokenizer"
# Losses; averages from which the codebook was made; constants; and what only clips, or other attention, would use.
IGNORED = re.compile(
    r"^(image_discriminator|video_discriminator|perceptual_model|video_perceptual_model)\."
    r"|^codebook\.(N|z_avg|codebook_usage)$"
    r"|^encoder\.to_patch_emb\.|^decoder\.to_pixels\."
    r"|.*\.(context_norm\.(gamma|beta)|relative_position_index)$"
    r"|^(en|de)coder\.\w+_temporal_transformer\..*\.spatial_rel_pos_bias\."
)
_NAMES = patterns(
    (r"^quantizer\.codebook$", "codebook.embeddings"),
    (r"^encoder\.out\.", "pre_vq_conv.1."),
    (r"^decoder\.embed\.", "post_vq_conv.1."),
    (r"^encoder\.patches\.0\.", "encoder.to_patch_emb_first_frame.1."),
    (r"^encoder\.patches\.1\.", "encoder.to_patch_emb_first_frame.2."),
    (r"^encoder\.patches\.2\.", "encoder.to_patch_emb_first_frame.3."),
    (r"^decoder\.to_pixels\.", "decoder.to_pixels_first_frame.0."),
    (r"^(enc|dec)oder\.(spatial|temporal)_norm\.", r"\1oder.\1_\2_transformer.norm_out."),
    (r"^(enc|dec)oder\.(spatial|temporal)_blocks\.", r"\1oder.\1_\2_transformer.layers."),
    (r"\.position\.", ".0.dsconv."),
    (r"\.attention\.position_bias\.0\.", ".1.spatial_rel_pos_bias.net.0.0."),
    (r"\.attention\.position_bias\.2\.", ".1.spatial_rel_pos_bias.net.1.0."),
    (r"\.attention\.position_bias\.4\.", ".1.spatial_rel_pos_bias.net.2."),
    (r"\.attention\.norm\.", ".1.norm."),
    (r"\.attention\.query_scale$", ".1.q_scale"),
    (r"\.attention\.key_scale$", ".1.k_scale"),
    (r"\.attention\.query\.", ".1.to_q."),
    (r"\.attention\.key_value\.", ".1.to_kv."),
    (r"\.attention\.out\.", ".1.to_out."),
    (r"\.attention\.qkv\.", ".1.qkv."),
    (r"\.attention\.projection\.", ".1.proj."),
    (r"\.attention\.table$", ".1.relative_position_bias_table"),
    (r"\.feed_forward_norm\.", ".3.0."),
    (r"\.feed_forward\.up\.", ".3.1."),
    (r"\.feed_forward\.down\.", ".3.4."),
)


def fits(state: Mapping[str, Tensor]) -> bool:
    """Whether a file's tensors are an OmniTokenizer's with a codebook (its VAE has none)."""
    return "encoder.to_patch_emb_first_frame.2.weight" in state and "codebook.embeddings" in state


def read_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of the tokenizer in a file, read off the shapes of its tensors."""
    codebook_size, channels = shape(state, "codebook.embeddings", 2)
    patch = math.isqrt(shape(state, "encoder.to_patch_emb_first_frame.1.weight")[0] // 3)
    tables = [value for name, value in state.items() if name.endswith(".relative_position_bias_table")]
    window = (math.isqrt(len(tables[0])) + 1) // 2 if tables else 1

    def part(kind: type, name: str) -> dict[str, Any]:
        spatial, temporal = (f"{name}oder.{name}_{axis}_transformer.layers" for axis in ("spatial", "temporal"))
        head_width = shape(state, f"{temporal}.0.1.q_scale")[0]
        has_bias = any(key.startswith(spatial) and ".spatial_rel_pos_bias." in key for key in state)
        arguments = {
            "latent_channels": channels,
            "width": shape(state, f"{temporal}.0.1.to_q.weight")[1],
            "spatial": _kinds(state, spatial),
            "num_temporal": count(state, temporal + ".{}.1.to_q.weight"),
            "num_heads": shape(state, f"{temporal}.0.1.to_q.weight")[0] // head_width,
            "head_width": head_width,
            "hidden": shape(state, f"{temporal}.0.3.4.weight")[1],
            "positions": "bias" if has_bias else "rotary",
            "window": window,
            "patch": patch,
        }
        return {"class_path": class_path(kind), "init_args": arguments}

    quantizer = {"codebook_size": codebook_size, "latent_channels": channels, "normalized_latent": True}
    arguments = {
        "encoder": part(OmniEncoder, "enc"),
        "decoder": part(OmniDecoder, "dec"),
        "quantizer": {"class_path": class_path(VectorQuantizer), "init_args": quantizer},
        "image_range": (-0.5, 0.5),
    }
    return {"class_path": class_path(ImageTokenizer), "init_args": arguments}


def published_name(name: str, state: Mapping[str, Tensor]) -> str:
    """The name in a file of one of the tokenizer's tensors."""
    return renamed(name, _NAMES)


def _kinds(state: Mapping[str, Tensor], layers: str) -> str:
    """The blocks of a stack, one letter each: "t" sees all patches, "w" a window of them."""
    kinds = ""
    while True:
        block = f"{layers}.{len(kinds)}.1"
        if f"{block}.to_q.weight" in state:
            kinds += "t"
        elif f"{block}.qkv.weight" in state:
            kinds += "w"
        else:
            return kinds
