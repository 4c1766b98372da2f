"""The published Open-MAGVIT2 generators (AR_256_B/L/XL.ckpt): names of tensors, and the architecture from their shapes.

A file holds the frozen tokenizer under `first_stage_model.` (raw weights, no moving averages) and the generator under
`transformer.`. Source: Luo et al., arXiv 2409.04410, and its reference implementation.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from open_magvit2.common import checkpoints
from open_magvit2.common.arguments import integer
from open_magvit2.generators.autoregressive import AutoregressiveGenerator

PREFIX = "transformer."
HEAD_WIDTH = 64  # of every published model
# saved after sampling by the reference, and no weights
_IGNORED = re.compile(r"\.kv_cache\.[kv]_cache$")
_NAMES = (
    (re.compile(r"^class_embedding\."), "class_emb.embedding_table."),
    (re.compile(r"^embeddings\.0\."), "pre_emb."),
    (re.compile(r"^embeddings\.1\."), "post_emb."),
    (re.compile(r"^heads\."), "head."),
    (re.compile(r"\.attention\.qkv\."), ".attention.wqkv."),
    (re.compile(r"\.attention\.out\."), ".attention.wo."),
    (re.compile(r"\.feed_forward\.gate\."), ".feed_forward.w1."),
    (re.compile(r"\.feed_forward\.up\."), ".feed_forward.w3."),
    (re.compile(r"\.feed_forward\.down\."), ".feed_forward.w2."),
    (re.compile(r"\.feed_forward_norm\."), ".ffn_norm."),
)


def published_name(name: str) -> str:
    """The published name, without `transformer.`, of one of our generator's tensors."""
    for pattern, replacement in _NAMES:
        name = pattern.sub(replacement, name)
    return name


def build(
    state: Mapping[str, Tensor],
    source: str | Path,
    grid: Sequence[int] = (16, 16),
    head_width: int = HEAD_WIDTH,
) -> AutoregressiveGenerator:
    """The generator of a published state dict, strictly.

    Args:
        state: published names to tensors, `transformer.` in front.
        source: the file, for errors.
        grid, head_width: which the file does not say.

    Raises:
        ValueError: for another file; missing or extra tensors, or wrong shapes.
    """
    tensors = {
        name: value for name, value in checkpoints.with_prefix(state, PREFIX).items() if not _IGNORED.search(name)
    }
    generator = AutoregressiveGenerator(**read_architecture(tensors, str(source), head_width), grid=grid)
    ours = {published_name(name): name for name in generator.state_dict()}
    checkpoints.load_strictly(generator, {ours.get(n, n): value for n, value in tensors.items()}, source)
    return generator


def read_architecture(state: Mapping[str, Tensor], source: str, head_width: int = HEAD_WIDTH) -> dict[str, Any]:
    """Arguments of `AutoregressiveGenerator`, read off the shapes of a published state dict without its prefix.

    Raises:
        ValueError: for the generators of IBQ, which have the same file names, for other files, or a head width that
            does not divide the model's width.
    """
    integer(1, head_width=head_width)
    if "tok_emb.weight" in state:
        raise ValueError(
            f"{source} is an IBQ generator (one softmax, class by adaptive norms), which has the file names of "
            "Open-MAGVIT2's: expected transformer.pre_emb and transformer.post_emb. Get the file from TencentARC/"
            "Open-MAGVIT2-AR-B-256-resolution (or -L-, -XL-)"
        )
    needed = ("pre_emb.weight", "post_emb.weight", "class_emb.embedding_table.weight")
    missing = [PREFIX + name for name in needed if name not in state]
    if missing:
        raise ValueError(f"{source} is no published generator: it lacks {', '.join(missing)}")
    sizes = [state[name].shape[0] for name in needed[:2]]
    blocks = [
        len({name.split(".")[1] for name in state if name.startswith(f"{kind}_blocks.")})
        for kind in ("spatial", "factorized")
    ]
    width = state["pre_emb.weight"].shape[1]
    if width % head_width:
        raise ValueError(
            f"head_width {head_width} does not divide the width {width} of {source}: give the width of its attention "
            f"heads ({HEAD_WIDTH} in the published models)"
        )
    return {
        "bits": [size.bit_length() - 1 for size in sizes],
        "num_classes": state["class_emb.embedding_table.weight"].shape[0] - 1,
        "width": width,
        "num_heads": width // head_width,
        "num_spatial_blocks": blocks[0],
        "num_factorized_blocks": blocks[1],
        "hidden": state["spatial_blocks.0.feed_forward.w1.weight"].shape[0] if blocks[0] else None,
    }
