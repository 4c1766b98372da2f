"""Deterministic weights for published models, ours and others': numbers that anyone can make from the tensors' names.

For every name of a published state dict, independent of all others, numpy's default_rng(crc32(name)) draws
r = standard_normal(shape); norms' weights are 1 + 0.1 r, biases 0.1 r, codebooks r, all else r / sqrt(fan in); float32.
goldens.json beside the manifests holds what the reference implementation computes from them.
"""

import ast
import hashlib
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "image_tokenizer" / "published"  # our own models; the others' are in `shared`


def manifest(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the encoder and decoder in a published file, as the authors' code names them."""
    lines = (FOLDER / f"{model}.txt").read_text().splitlines()
    return {name: ast.literal_eval(shape) for name, shape in (line.split("\t") for line in lines)}


def state_dict(model: str) -> dict[str, torch.Tensor]:
    """A state dict as the published file has it: raw weights and, under names without dots, moving averages."""
    raw = manifest(model)
    averaged = {"model_ema." + name.replace(".", ""): shape for name, shape in raw.items()}
    state = {name: tensor(name, shape) for name, shape in {**raw, **averaged}.items()}
    state["model_ema.decay"] = torch.tensor(0.999)
    state["model_ema.num_updates"] = torch.tensor(1000, dtype=torch.int32)
    return state


def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights of one name."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if name == "codebook.embeddings" or (len(shape) == 2 and "embedding" in name):
        values = noise
    elif len(shape) == 1 and last.endswith(("weight", "gamma", "scale")):
        values = 1 + 0.1 * noise
    elif len(shape) == 1 or last in ("bias", "beta"):
        values = 0.1 * noise
    else:
        values = noise / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def whole_manifest(folder: Path, model: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names, shapes and dtypes of everything in a published file, losses and bookkeeping included."""
    lines = (line.split("\t") for line in (folder / f"{model}.txt").read_text().splitlines())
    return {name: (ast.literal_eval(shape), dtype) for name, shape, dtype in lines}


def whole_state(
    folder: Path, model: str, replaced: dict[str, tuple[int, ...]] | None = None
) -> dict[str, torch.Tensor]:
    """A state dict with everything in a published file.

    Args:
        folder: of the manifests.
        model: name of one.
        replaced: other shapes of some tensors, e.g. of a codebook of another size.
    """
    state = {}
    for name, (shape, dtype) in whole_manifest(folder, model).items():
        shape = (replaced or {}).get(name, shape)
        is_weight = dtype.startswith("float") and shape != ()
        state[name] = tensor(name, shape) if is_weight else torch.full(shape, -1, dtype=getattr(torch, dtype))
    return state


def golden(model: str, weights: str) -> dict:
    """What the reference computes: probes of latent and reconstruction, hash of the indices."""
    return json.loads((FOLDER / "goldens.json").read_text())[f"{model}.{weights}"]


def input_image(shape: list[int], low: float = -1, high: float = 1) -> torch.Tensor:
    """The input of the goldens, float64 in [low, high]."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(b"input")).uniform(low, high, shape))


def probe(values: torch.Tensor) -> torch.Tensor:
    """Six values spread over a tensor."""
    return values.flatten()[torch.linspace(0, values.numel() - 1, 6).long()]


def hash_of_indices(indices: torch.Tensor) -> str:
    """First 16 digits of the SHA-256 of indices as little-endian int64."""
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()[:16]
