"""Small trainings of both generators on tokens made here, for tests and for the processes that tests start."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from open_magvit2.common.files import sha256
from open_magvit2.data.sources import token_index
from open_magvit2.data.sources.token_index import Index
from open_magvit2.data.token_loading import TokenDataModule
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.autoregressive_training import AutoregressiveTraining
from open_magvit2.generators.masked import MaskedGenerator
from open_magvit2.generators.masked_training import MaskedTraining
from open_magvit2.generators.training import GeneratorTraining

GRID, BITS, CLASSES = (4, 4), (3, 3), 32
SIZES = {"bits": BITS, "grid": GRID, "num_classes": CLASSES, "width": 32, "num_heads": 2, "hidden": 48}


def module(kind: str = "autoregressive", sizes: dict[str, Any] | None = None, **options: Any) -> GeneratorTraining:
    """The whole training module at toy size; the same weights at every call."""
    pl.seed_everything(0, verbose=False)
    options = {"micro_batch_size": 4, "learning_rate": 1e-3, **options}
    if kind == "masked":
        return MaskedTraining(MaskedGenerator(**{**SIZES, "num_blocks": 2, **(sizes or {})}), **options)
    blocks = {"num_spatial_blocks": 2, "num_factorized_blocks": 1}
    return AutoregressiveTraining(AutoregressiveGenerator(**{**SIZES, **blocks, **(sizes or {})}), **options)


def tokens(number: int, seed: int = 0, grid: Sequence[int] = GRID) -> Tensor:
    """Random indices int64 [number, *grid] of 64 codes."""
    return torch.randint(0, 2 ** sum(BITS), (number, *grid), generator=torch.Generator().manual_seed(seed))


def write_shards(
    folder: Path, number: int, seed: int = 0, classes: int = CLASSES, names: Sequence[str] | None = None, **index: Any
) -> Path:
    """A folder as scripts/tokenize_images.py leaves it, of random tokens; image k has class k mod `classes`.

    With `names` of that many classes, the images lie in class folders.
    """
    folder.mkdir(parents=True)
    inside = [""] * classes if names is None else [f"{name}/" for name in names]
    paths = token_index.paths_text([f"{inside[item % classes]}{item}.png" for item in range(number)])
    fields = {"token_shape": GRID, "codebook_size": 64, "image_size": (16, 16), "checkpoint_sha256": "a" * 64}
    fields |= {"weights": "ema", "precision": "fp32", "shard_size": 1000, **index}
    written = Index(num_images=number, paths_sha256=sha256(paths), **fields)
    (folder / token_index.PATHS).write_bytes(paths)
    np.save(folder / token_index.tokens_file(0), tokens(number, seed, written.token_shape).numpy().astype(np.int32))
    np.save(folder / token_index.labels_file(0), np.arange(number, dtype=np.int64) % classes)
    checksums = {name: sha256((folder / name).read_bytes()) for name in written.file_names()}
    token_index.write_index(folder, written.completed(checksums))
    return folder


def data(folder: Path, global_batch_size: int = 8) -> TokenDataModule:
    """35 training items, four steps of 8 an epoch, and 7 of validation."""
    for name, number, seed in (("train", 35, 0), ("validation", 7, 1)):
        if not (folder / name).exists():
            write_shards(folder / name, number, seed)
    return TokenDataModule(
        str(folder / "train"), str(folder / "validation"), global_batch_size, validation_batch_size=2, num_workers=0
    )


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    """A CPU trainer that writes into a folder."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 3,
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,
        "val_check_interval": 3,
    }
    return pl.Trainer(**(defaults | options))


def parameters(network: torch.nn.Module) -> Tensor:
    """All weights of a network in one vector, a copy."""
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
