"""Describe a module by its class path and constructor arguments, and build it again from that description.

A checkpoint carries the description, so that a tokenizer opens with whatever encoder, quantizer and decoder it was
trained with. The convention is scikit-learn's: every constructor argument is kept as an attribute of the same name.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = __name__.partition(".")[0]
_DRAWING = (torch.ops.aten.uniform_.default, torch.ops.aten.normal_.default)
_PLAIN = (bool, int, float, str, type(None))


def class_path(kind: type) -> str:
    """The path by which a YAML file and a checkpoint name a class: "open_magvit2.image_tokenizer.encoder.Encoder"."""
    return f"{kind.__module__}.{kind.__qualname__}"


def describe(module: nn.Module) -> dict[str, Any]:
    """The class path and the constructor arguments of a module, as plain values.

    Returns:
        {"class_path": str, "init_args": {name: number, string, list, dictionary or another description}}.

    Raises:
        ValueError: if an argument is not an attribute of the same name, or is no plain value and no module.
    """
    kind = type(module)
    arguments = {}
    # a class without a constructor has that of `nn.Module`, which takes nothing though its signature says *args
    has_own = kind.__init__ is not nn.Module.__init__
    for name, parameter in inspect.signature(kind.__init__).parameters.items() if has_own else ():
        if name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(
                f"{class_path(kind)} takes *{name}: name its arguments, so that a checkpoint can hold them"
            )
        if not hasattr(module, name):
            raise ValueError(
                f"{class_path(kind)} has an argument {name!r} but no attribute of that name: set self.{name} in "
                "__init__, so that a checkpoint can rebuild it"
            )
        arguments[name] = _described(getattr(module, name), f"{class_path(kind)}.{name}")
    return {"class_path": class_path(kind), "init_args": arguments}


def build(description: Mapping[str, Any], allowed_modules: Sequence[str] = ()) -> nn.Module:
    """Build what `describe` described.

    A checkpoint must not choose which code runs, therefore only `nn.Module` classes of this package are built.

    Args:
        description: {"class_path": ..., "init_args": ...}.
        allowed_modules: names of other Python modules or packages whose classes may be built as well, e.g.
            ["my_project"]; they are imported.

    Returns:
        the module; its parameters hold no values yet where the constructor draws them at random: load them.

    Raises:
        ValueError: for a class of another package, one that does not exist, or arguments it does not take.
    """
    with _WithoutDrawing():
        return _build(description, allowed_modules)


def _build(description: Mapping[str, Any], allowed_modules: Sequence[str]) -> nn.Module:
    if not isinstance(description, Mapping) or not isinstance(description.get("class_path"), str):
        raise ValueError(f"expected a description with a class_path, got {description!r:.200}")
    path = description["class_path"]
    module_name = path.rpartition(".")[0]
    if not any(module_name == root or module_name.startswith(f"{root}.") for root in (PACKAGE, *allowed_modules)):
        raise ValueError(
            f"the file names the class {path}, which is not part of {PACKAGE}. If you trust it, allow its module: "
            f"--allow-modules {path.partition('.')[0]} on the command line, allowed_modules=[...] in Python, parts "
            "of it in the configuration of a training"
        )
    kind = import_class(path)
    arguments = {
        name: _built(value, allowed_modules) for name, value in dict(description.get("init_args") or {}).items()
    }
    try:
        return kind(**arguments)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be built with {sorted(arguments)}: {error}") from error


def _built(value: Any, allowed_modules: Sequence[str]) -> Any:
    """An argument, with the modules of lists and dictionaries built as well."""
    if _is_description(value):
        return _build(value, allowed_modules)
    if isinstance(value, (list, tuple)):
        return [_built(item, allowed_modules) for item in value]
    if isinstance(value, Mapping):
        return {key: _built(item, allowed_modules) for key, item in value.items()}
    return value


def check_rebuilds(module: nn.Module) -> None:
    """Refuse a module that a checkpoint could not rebuild as it is.

    Modules with classes of other packages are built twice more, and must then describe themselves alike.

    Raises:
        ValueError: if it cannot be described or built, keeps an argument changed, draws numbers that no file holds, or
            by `check_state`.
    """
    description = describe(module)
    if not (others := other_packages(module)):
        return
    check_state(module)
    with torch.random.fork_rng(devices=[]):
        built, again = (build(description, others) for _ in range(2))
    if changed := differences(description, describe(built)):
        name, kept, becomes = changed[0]
        raise ValueError(
            f"{class_path(type(module))} keeps {name} = {kept!r}, and built from that it has {becomes!r}: keep every "
            "argument as it was given, so that a checkpoint can rebuild it"
        )
    for (name, buffer), other in zip(built.named_buffers(), again.buffers(), strict=True):
        if name not in built.state_dict() and not torch.equal(buffer, other):
            raise ValueError(
                f"{name} of {class_path(type(module))} has other values each time that it is built, and no checkpoint "
                "holds them: draw it from a seed of its own, or register the buffer with persistent=True"
            )


def check_state(module: nn.Module) -> None:
    """Refuse a module whose state is more than tensors of known shapes, which a checkpoint could not be compared with.

    Raises:
        ValueError: naming what is not.
    """
    state = module.state_dict(keep_vars=True)
    if others := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise ValueError(f"{', '.join(others)}: the extra state of a module is no tensor; keep it in buffers instead")
    if lazy := [name for name, value in state.items() if nn.parameter.is_lazy(value)]:
        raise ValueError(
            f"{', '.join(lazy)} get a shape with the first batch alone, so that a checkpoint could not be loaded: use "
            "layers whose numbers of channels are arguments instead of lazy ones"
        )


def other_packages(module: nn.Module) -> list[str]:
    """Names of the packages besides this one that the classes of a module's parts are from.

    PyTorch is among them where another one is, since a user's class may take its layers as arguments.
    """
    roots = {type(part).__module__.partition(".")[0] for part in module.modules()}
    return sorted(roots - {PACKAGE}) if roots - {PACKAGE, "torch"} else []


class _WithoutDrawing(TorchDispatchMode):
    """Leaves parameters as they were allocated where an initialisation would fill them with random numbers.

    A file holds all parameters. Other tensors may be in none, such as a random rotation that a part draws from a seed.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function in _DRAWING and isinstance(args[0], nn.Parameter):
            return args[0]
        return function(*args, **(kwargs or {}))


def import_class(path: str) -> type[nn.Module]:
    """The `nn.Module` class of a class path; its module is imported.

    Raises:
        ValueError: if there is none.
    """
    module_name, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the class {path} does not exist here ({error})") from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module) and class_path(kind) == path):
        raise ValueError(f"{path} is no torch.nn.Module class defined there")
    return kind


def differences(
    first: Any, second: Any, ignored: Mapping[str, Sequence[str]] | None = None, path: str = ""
) -> list[tuple[str, Any, Any]]:
    """Differences of two descriptions: (path, value in the first, in the second), e.g. ("encoder.channels", 8, 16).

    An argument that only one of them names is not compared: a class may have got it, with a default, in the meantime.

    Args:
        first, second: of `describe`, or values inside them.
        ignored: by class path, names of arguments that may differ.
        path: prefix of the returned paths.
    """
    if _is_description(first) and _is_description(second):
        kinds = first["class_path"], second["class_path"]
        if kinds[0] != kinds[1]:
            return [(path, *kinds)]
        skipped = (ignored or {}).get(kinds[0], ())
        arguments = first["init_args"], second["init_args"]
        names = [name for name in arguments[0] if name in arguments[1] and name not in skipped]
        pairs = [(f"{path}.{name}" if path else name, *(both[name] for both in arguments)) for name in names]
        return [found for name, *both in pairs for found in differences(*both, ignored, name)]
    first, second = (list(value) if isinstance(value, tuple) else value for value in (first, second))
    return [] if first == second else [(path, first, second)]


def _is_description(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _described(value: Any, path: str) -> Any:
    if isinstance(value, nn.ModuleDict):
        value = dict(value)
    if isinstance(value, nn.Module) and not isinstance(value, nn.ModuleList):
        return describe(value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple, nn.ModuleList)):
        return [_described(item, path) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _described(item, path) for key, item in value.items()}
    raise ValueError(
        f"{path} is a {type(value).__name__}: a checkpoint holds plain numbers, strings, modules, lists and "
        "dictionaries by strings; keep the plain value (an int, a float, a str) as the attribute"
    )


def check_fulfils(part: nn.Module, protocol: type) -> None:
    """Refuse a part that lacks an attribute or a method of a protocol.

    Raises:
        ValueError: naming the class, the protocol and the missing members.
    """
    required = [*inspect.get_annotations(protocol), *(name for name in vars(protocol) if not name.startswith("_"))]
    missing = [name for name in required if not hasattr(part, name)]
    if missing:
        raise ValueError(
            f"{class_path(type(part))} is no {protocol.__name__}: it lacks {', '.join(missing)} "
            f"(see open_magvit2.protocols.{protocol.__name__})"
        )
