"""The families of tokenizers that can be evaluated: `tokenizers/<family>.py`, recognised or named by `--tokenizer`.

Such a module either describes the published files of a family (`_recognition` says how), or defines
`load(checkpoint, ...) -> Tokenizer` (`open_magvit2.protocols.Tokenizer`): in evaluation mode. Of the options weights,
device and allowed_modules that function gets those that it declares. A family outside this package is named by the path
of its module: `--tokenizer my_project.my_tokenizer`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch

from open_magvit2.common import checkpoints
from open_magvit2.evaluation.tokenizers import _recognition
from open_magvit2.image_tokenizer import pretrained
from open_magvit2.protocols import Tokenizer, Weights
from open_magvit2.quantizers.lookup_free import BitOrder


def available() -> list[str]:
    """The names of the families in this package."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def family_module(family: str) -> ModuleType:
    """The module of a family; a ValueError if there is none, or it can load nothing."""
    if family not in available() and "." not in family:
        raise ValueError(f"no tokenizer family is called {family!r}; available: {', '.join(available())}")
    try:
        module = importlib.import_module(family if "." in family else f"{__name__}.{family}")
    except ImportError as error:
        raise ValueError(f"cannot import the tokenizer family {family}: {error}") from error
    if not any(callable(getattr(module, name, None)) for name in ("load", "read_architecture")):
        raise ValueError(f"the tokenizer family {family} has no function load(checkpoint, ...)")
    return module


def load(family: str, checkpoint: str | Path, device: str | torch.device = "cpu", **options: Any) -> Tokenizer:
    """Load a tokenizer of a family onto a device; a `load` of the family gets those of the options that it declares.

    Raises:
        ValueError: for a family without a module, a file that is not the family's, or a tokenizer that does not fulfil
            the protocol.
    """
    module = family_module(family)
    if not hasattr(module, "load"):
        weights = options.get("weights", "ema")
        return _recognition.load(module, checkpoints.read(checkpoint), checkpoint, weights, device)
    parameters = inspect.signature(module.load).parameters
    given = {name: value for name, value in {**options, "device": device}.items() if name in parameters}
    tokenizer = module.load(checkpoint, **given)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{family}.load gave a {type(tokenizer).__name__}, which does not fulfil protocols.Tokenizer")
    return tokenizer.to(device) if "device" not in given and isinstance(tokenizer, torch.nn.Module) else tokenizer


def load_tokenizer(
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
    allowed_modules: Sequence[str] = (),
    bit_order: BitOrder | None = None,
) -> Tokenizer:
    """Load a tokenizer for inference from our checkpoint or a published file of any family of this package.

    Family and architecture are read off the file's tensors. Loading is strict, and no code from the file is executed.

    Args:
        path: `.ckpt` of ours, or a published file: imagenet_256_B.ckpt, vq_ds16_c2i.pt, vq-f8.ckpt, ...
        weights: "ema" (moving averages: validation and all published figures) or "raw". A family without averages gives
            its only weights either way; `checkpoint_facts["weights"]` says which were loaded.
        device: where to put the model.
        allowed_modules: names of Python modules outside this package from which a checkpoint of ours may name classes,
            e.g. ["my_project"] for a tokenizer that was trained with a quantizer of yours.
        bit_order: of the indices of a published Open-MAGVIT2 file; by default B files are read most significant bit
            first, L files least significant first, as their authors number them.

    Returns:
        the tokenizer in eval mode, its parameters without gradients.

    Raises:
        FileNotFoundError, ValueError: no file; a damaged, unsafe or unknown one, with the nearest family; a class that
            is not allowed; EMA weights asked for and absent; missing or extra tensors, or wrong shapes, all listed.

    Example:
        >>> tokenizer = load_tokenizer("imagenet_256_B.ckpt")  # doctest: +SKIP
        >>> indices = tokenizer.tokenize(image)  # [B, 3, 256, 256] in [-1, 1] -> [B, 16, 16]  # doctest: +SKIP
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be 'ema' or 'raw', got {weights!r}")
    content = checkpoints.read(path)
    state = None
    if pretrained.TOKENIZER_KEY not in content:
        state = _recognition.state_of(content, path)
        if (family := _recognition.recognized(state)) is not None:
            return _recognition.load(family, content, path, weights, device)
    try:
        return pretrained.from_content(content, path, weights, device, allowed_modules, bit_order)
    except pretrained.UnknownFileError as error:
        raise ValueError("; ".join(filter(None, [str(error), _recognition.nearest(state or {})]))) from None
