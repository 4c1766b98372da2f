"""The published generators with deterministic weights (see image_tokenizer/published_weights.py) and their goldens."""

import ast
import hashlib
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.published import PREFIX, published_name

FOLDER = Path(__file__).with_name("published")
GOLDENS = json.loads((FOLDER / "goldens_ar.json").read_text())


def manifest(model: str) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of a generator's tensors."""
    lines = (FOLDER / f"AR_{model}.txt").read_text().splitlines()
    return {name: ast.literal_eval(shape) for name, shape in (line.split("\t") for line in lines)}


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """float64 [shape], rounded to float32 first."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        noise = 1 + 0.1 * noise
    elif "embedding" not in name:
        noise = noise / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(noise.astype(np.float32).astype(np.float64))


def arguments(name: str) -> dict:
    """Constructor arguments of a golden's model."""
    config = GOLDENS[name]["config"]
    return {
        "bits": config["bits"],
        "grid": (config["grid"], config["grid"]),
        "num_classes": config["classes"],
        "width": config["dim"],
        "num_heads": config["heads"],
        "num_spatial_blocks": config["spatial_layers"],
        "num_factorized_blocks": config["factorized_layers"],
    }


def generator(name: str, **changes) -> AutoregressiveGenerator:
    """The golden's model in float64, built without a float32 copy beside it."""
    with torch.device("meta"):
        model = AutoregressiveGenerator(**(arguments(name) | changes))
    state = {n: weight(PREFIX + published_name(n), tuple(value.shape)) for n, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def tokens_and_labels(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices int64 [B, N] and labels [B] of a golden."""
    golden = GOLDENS[name]
    tokens = np.random.default_rng(zlib.crc32(b"tokens")).integers(0, 2**18, golden["tokens_shape"])
    classes = golden["config"]["classes"]
    labels = np.random.default_rng(zlib.crc32(b"labels")).integers(0, classes, golden["tokens_shape"][0])
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def probe(values: torch.Tensor) -> torch.Tensor:
    """Six values at even distances."""
    return values.flatten()[torch.linspace(0, values.numel() - 1, 6).long()]


def hash_of_indices(indices: torch.Tensor) -> str:
    """The first 16 digits of SHA-256 over the little-endian int64 bytes."""
    return hashlib.sha256(indices.to(torch.int64).contiguous().numpy().astype("<i8").tobytes()).hexdigest()[:16]
