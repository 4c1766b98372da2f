"""Read checkpoint files without executing them, and load weights strictly, with a difference that a person can read."""

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from open_magvit2.common import containers, hub, stand_ins
from open_magvit2.common.files import sha256_of

LIBRARY = "open_magvit2"  # `library_name` of the config.json that `save_pretrained` writes
_LISTED = 10  # names shown of each kind of difference
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of weights
_OBJECT = re.compile(r"(?:GLOBAL|class) ([\w.]+)")  # in PyTorch's refusal of a pickled object
_ABSENT = object()  # equal to nothing in a file


def read(path: str | Path) -> dict[str, Any]:
    """The content of a `.ckpt`, `.pt`, `.pth`, `.bin` (PyTorch), `.safetensors` or `.msgpack` (flax) file, on the CPU.

    No code from the file runs: tensors, numbers, strings and containers are all that is read; objects of the classes in
    `stand_ins.NAMES` become inert. The tensors are copies, not mapped pages: a file that is overwritten later would
    change a loaded model without a word.

    Args:
        path: a file, a zip archive around one, a folder that holds exactly one `.safetensors` file or, without any, a
            pytorch_model.bin, or the name of one on the Hugging Face Hub (`common.hub`). The values of a config.json
            that `save_pretrained` wrote are part of the content of a folder.

    Raises:
        FileNotFoundError: if there is no such file, nor a repository of that name.
        ValueError: if the file is empty, cut short, no checkpoint, or holds objects that could execute code.
    """
    path = _one_file(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: its download or its writing was interrupted")
    config = _saved_config(path) if path.suffix == ".safetensors" else {}
    with containers.unpacked(path) as file:
        return {**config, **_read(file, path)}


def _read(file: Path, path: Path) -> dict[str, Any]:
    """The content of a file that errors call by a path."""
    try:
        if file.suffix == ".safetensors":
            return {"state_dict": safetensors.torch.load_file(file)}
        if containers.is_msgpack(file):
            return {"state_dict": containers.read_msgpack(file)}
        with stand_ins.allowed():
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _OBJECT.search(str(error))
        if found is None:
            raise ValueError(f"{path} is no PyTorch checkpoint: it is no file that torch.save writes") from error
        raise ValueError(
            f"{path} was refused: it holds an object of {found.group(1)}. Objects other than tensors and plain values "
            "could run code when they are loaded. Ask its author for a file of weights only"
        ) from error
    except containers.UnsupportedContentError:
        raise
    except Exception as error:  # the reader of pickles raises any exception on bytes that are no pickle
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read as a checkpoint: damaged or cut short.\n"
            f"  ({type(error).__name__}: {_first_line(error)})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dictionary of weights")
    return content


def digest(path: str | Path) -> str:
    """The SHA-256 of the file that `read` reads, 64 hexadecimal digits.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or a folder has several.
    """
    return sha256_of(_one_file(path))


def _saved_config(path: Path) -> dict[str, Any]:
    """The config.json next to a `.safetensors` file, if `save_pretrained` wrote it; else nothing."""
    file = path.with_name(hub.CONFIG_FILE)
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: damaged or cut short ({error})") from error
    return config if isinstance(config, dict) and config.get("library_name") == LIBRARY else {}


def _one_file(name: str | Path) -> Path:
    """The file of a path or of a name on the Hub, or the file of weights in a folder."""
    path = hub.local_path(name)
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint file at {path}")
        return path
    files = sorted(path.glob("*.safetensors"))
    if not files and (older := path / hub.OLDER_WEIGHTS_FILE).is_file():
        return older
    if len(files) != 1:
        raise ValueError(
            f"{path} is a folder with {len(files)} .safetensors files, expected a file, or a folder with exactly one "
            f"or with {hub.OLDER_WEIGHTS_FILE}"
        )
    return files[0]


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names start with prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], source: str | Path, hint: str = "", share: bool = False
) -> None:
    """Load weights by name into a module; every name and shape must agree, and every weight must be a finite number.

    Args:
        module: takes the values (its own dtype and device).
        state: the module's names to tensors.
        source: where the weights come from, for the error.
        hint: a likely cause, appended to the error.
        share: make the given tensors the module's own where nothing has to be converted, instead of copying them.

    Raises:
        ValueError: listing missing and unexpected names, wrong shapes, wrong types and weights that are not finite; the
            module is left as it was.
    """
    check_fits(module, state, source, hint)
    own = module.state_dict()
    fitting = {name: value.to(own[name].device, own[name].dtype) for name, value in state.items()} if share else state
    module.load_state_dict(dict(fitting), strict=True, assign=share)


def check_fits(module: nn.Module, state: Mapping[str, Tensor], source: str | Path, hint: str = "") -> None:
    """The check of `load_strictly`, without loading: the same first arguments and the same error."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name}: file {tuple(state[name].shape)}, model {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    fitting = {name: value for name, value in state.items() if name in expected}
    types = [f"{name}: {found}" for name, value in fitting.items() if (found := _wrong_type(value, expected[name]))]
    not_finite = [
        name for name, value in fitting.items() if not types and value.dtype in _DTYPES and not value.isfinite().all()
    ]
    if missing or unexpected or shapes or types or not_finite:
        parts = [f"{source} does not fit the model ({len(expected)} tensors):"]
        parts += _listing("missing in the file", missing)
        parts += _listing("unexpected in the file", unexpected)
        parts += _listing("of another shape", shapes)
        parts += _listing("of a wrong type", types)
        parts += _listing("infinite or NaN", not_finite)
        raise ValueError("\n".join([*parts, hint] if hint else parts))


def _wrong_type(value: Tensor, expected: Tensor) -> str | None:
    """Why a tensor cannot be a module's tensor, or None: weights are dense floating-point numbers."""
    if value.layout != torch.strided or value.device.type == "meta":
        return f"{value.layout} on {value.device}, expected a dense tensor"
    right = value.dtype in _DTYPES if expected.is_floating_point() else value.dtype == expected.dtype
    return None if right else f"{value.dtype}, expected {expected.dtype}"


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Paths at which two checkpoints differ, such as state_dict.weight; tensors are compared bit by bit.

    Args:
        first, second: dictionaries and lists of tensors and plain values, to any depth.
        path: put before every path that is returned.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [*first, *(key for key in second if key not in first)]
        pairs = [(key, first.get(key, _ABSENT), second.get(key, _ABSENT)) for key in keys]
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        pairs = [(index, *both) for index, both in enumerate(zip(first, second, strict=True))]
    else:
        return [] if _same_bits(first, second) else [path]
    return [name for key, *both in pairs for name in differences(*both, f"{path}.{key}" if path else str(key))]


def _same_bits(first: Any, second: Any) -> bool:
    if not (torch.is_tensor(first) and torch.is_tensor(second)):
        return type(first) is type(second) and first == second
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(*(value.cpu().contiguous().flatten().view(torch.uint8) for value in (first, second)))


def _listing(title: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    if not names:
        return []
    more = [f"    ... and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return [f"  {len(names)} {title}:", *(f"    {name}" for name in names[:_LISTED]), *more]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]
