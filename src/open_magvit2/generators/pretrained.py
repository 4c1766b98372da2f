"""From a checkpoint file to a generator: our own checkpoints, which describe it, and the published ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from open_magvit2.common import checkpoints, construction, state_dicts
from open_magvit2.generators import published
from open_magvit2.protocols import Weights

GENERATOR_KEY = "open_magvit2_generator"  # our checkpoints carry `describe(generator)` under it
MADE_BY_KEY = "open_magvit2_tokenizer_of_generator"  # and what `checks.check_source` knows of the tokenizer
_PREFIX = "generator."  # of the generator within the LightningModule
_RAW_STATE_KEY = "current_model_state"  # Lightning's WeightAveraging: `state_dict` then holds the averages


def load_generator(
    path: str | Path,
    weights: Weights | None = None,
    device: str | torch.device = "cpu",
    grid: Sequence[int] | None = None,
    head_width: int | None = None,
    allowed_modules: Sequence[str] = (),
) -> nn.Module:
    """Load a generator for inference from our checkpoint or a published Open-MAGVIT2 file (AR_256_B/L/XL.ckpt).

    Loading is strict, and no code from the file is executed.

    Args:
        path: the file.
        weights: "ema" or "raw"; None for the moving averages of a training that had them, else the raw ones. Published
            files hold raw weights.
        device: where to put the model.
        grid, head_width: of a published generator, whose file does not say them; None for (16, 16) and 64.
        allowed_modules: names of Python modules outside this package from which the file may name classes.

    Returns:
        an `AutoregressiveGenerator` or a `MaskedGenerator` in eval mode, its parameters without gradients. One of our
        files has `made_by`, a dictionary: path, sha256, weights and precision of the tokenizer, image_size.

    Raises:
        FileNotFoundError, ValueError: no file, a damaged or unknown one; weights that it does not hold; an IBQ
            generator; missing or extra tensors, or wrong shapes; a grid or head width for one of our files.
    """
    if weights is not None and weights not in get_args(Weights):
        raise ValueError(f"weights must be 'ema', 'raw' or None, got {weights!r}")
    content = checkpoints.read(path)
    key = _RAW_STATE_KEY if weights == "raw" and _RAW_STATE_KEY in content else "state_dict"
    state = state_dicts.find_state_dict({"state_dict": content[key]} if key in content else content, str(path))
    if weights == "ema" and _RAW_STATE_KEY not in content:
        raise ValueError(f"{path} holds no EMA weights; load it with weights='raw'")
    if GENERATOR_KEY in content:
        if grid is not None or head_width is not None:
            raise ValueError(f"{path} says its grid and head width itself: they are given for published files alone")
        generator = construction.build(content[GENERATOR_KEY], allowed_modules)
        state, _ = state_dicts.without_wrappers(state, [_PREFIX + name for name in generator.state_dict()])
        checkpoints.load_strictly(generator, checkpoints.with_prefix(state, _PREFIX), path)
        generator.made_by = dict(content.get(MADE_BY_KEY, {}))
    else:
        grid = (16, 16) if grid is None else grid
        head_width = published.HEAD_WIDTH if head_width is None else head_width
        generator = published.build(state_dicts.without_wrappers(state)[0], path, grid, head_width)
    return generator.eval().requires_grad_(False).to(device)


def check_same_generator(module: nn.Module, description: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse to continue a training from a checkpoint of another generator; its dropout may differ.

    Args:
        module: the training module, whose state dict the file's must fit.
        description: `describe(generator)` of its generator.
        checkpoint: the file's content.

    Raises:
        ValueError: with what the file has, what the configuration has, and what to do.
    """
    if GENERATOR_KEY not in checkpoint:
        raise ValueError(
            f"--ckpt_path names no checkpoint of such a training: it has no {GENERATOR_KEY!r}, only "
            f"{sorted(checkpoint)[:5]}. Give a file that scripts/train.py wrote (a published one cannot be continued)"
        )
    may_differ = {description["class_path"]: ("dropout",)}
    different = construction.differences(checkpoint[GENERATOR_KEY], description, may_differ)
    hint = "Take the configuration that it was trained with (config.yaml in its run's folder), or another file"
    if different:
        lines = [f"  {name}: {file} in the file, {mine} in the configuration" for name, file, mine in different]
        raise ValueError("\n".join(["the checkpoint of --ckpt_path holds another generator:", *lines, hint]))
    if "state_dict" in checkpoint:  # sharded weights are loaded by the strategy
        checkpoints.check_fits(module, checkpoint["state_dict"], "the checkpoint of --ckpt_path", hint)
