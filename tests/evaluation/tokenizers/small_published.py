"""Small tokenizers of the transformer families, as state dicts under the names of their published files."""

import published_weights as published
import torch

from open_magvit2.common import construction
from open_magvit2.evaluation.tokenizers import _recognition

_PACKAGE = "open_magvit2.evaluation.tokenizers"
_SIZES = {"width": 64, "num_blocks": 2}
_OMNI = {"width": 32, "spatial": "tw", "num_temporal": 1, "num_heads": 2, "head_width": 8, "hidden": 24}
_OMNI |= {"positions": "rotary", "window": 2}


def _part(path: str, **arguments):
    return {"class_path": f"{_PACKAGE}.{path}", "init_args": arguments}


# family -> (encoder, decoder, quantizer), the last without its size
SMALL = {
    "titok": (
        _part("titok.TiTokEncoder", **_SIZES, num_latents=4, reshaped=False, image_size=32),
        _part(
            "titok.TiTokDecoder",
            **_SIZES,
            num_latents=4,
            image_size=32,
            head=_part("titok.PixelHead", width=64),
        ),
        "vector.VectorQuantizer",
    ),
    "vit_vqgan": (
        _part("vit_vqgan.ViTEncoder", **_SIZES, num_heads=1, hidden=32, image_size=32),
        _part("vit_vqgan.ViTDecoder", **_SIZES, num_heads=2, hidden=32, image_size=32),
        "vector.VectorQuantizer",
    ),
    "omnitokenizer": (
        _part("_omnitokenizer_networks.OmniEncoder", **_OMNI),
        _part("_omnitokenizer_networks.OmniDecoder", **{**_OMNI, "spatial": "t"}),
        "vector.VectorQuantizer",
    ),
    "bsq_vit": (
        _part("bsq_vit.BSQEncoder", **_SIZES, mlp_hidden=96, image_size=32),
        _part("bsq_vit.BSQDecoder", **_SIZES, mlp_hidden=96, image_size=32, head_hidden=48),
        "binary_spherical.BinarySphericalQuantizer",
    ),
}


def small_state(family: str, num_bits: int = 6) -> dict[str, torch.Tensor]:
    """A state dict as a file of the family has it, of 16 codes, or 2^num_bits, with `num_bits` channels."""
    *parts, quantizer = SMALL[family]
    is_binary = family == "bsq_vit"
    sizes = {"num_bits": num_bits, "entropy_group_bits": 1} if is_binary else {"codebook_size": 16}
    sizes |= {} if is_binary else {"latent_channels": num_bits}
    parts = [{**part, "init_args": {"latent_channels": num_bits, **part["init_args"]}} for part in parts]
    quantizer = {"class_path": f"open_magvit2.quantizers.{quantizer}", "init_args": sizes}
    arguments = {"encoder": parts[0], "decoder": parts[1], "quantizer": quantizer}
    with torch.device("meta"):
        model = construction.build(
            {"class_path": "open_magvit2.image_tokenizer.model.ImageTokenizer", "init_args": arguments}
        )
    module = _recognition.families()[family]
    names = {module.published_name(name, {}): tuple(value.shape) for name, value in model.state_dict().items()}
    state = {name: published.tensor(name, shape) for name, shape in names.items()}
    if is_binary:
        powers = 2 ** torch.arange(num_bits - 1, -1, -1)
        state |= {"quantize.basis": powers, "quantize.group_basis": powers[-1:]}
    return state
