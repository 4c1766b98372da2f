"""Any source by its class path, for the commands that have no configuration file."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_magvit2.data.dataset import Source, missing_methods


def load_source(name: str, arguments: Sequence[str] = ()) -> Any:
    """Build a source from the words of a command line: `--source my_package.MyImages --source-args root=/x split=val`.

    Args:
        name: a class path, e.g. "my_package.MyImages" with my_package on PYTHONPATH, or a YAML file with class_path and
            init_args.
        arguments: "name=value" for the constructor, converted as its type hints say; they win over the file's.

    Raises:
        ValueError: if there is no such class, it is no source, or it does not take the arguments.
        Exception: what the constructor raises.
    """
    import jsonargparse  # slow to import
    import yaml

    init_args: dict[str, Any] = {}
    if name.endswith((".yaml", ".yml")):
        content = yaml.safe_load(Path(name).read_text())
        if not isinstance(content, dict) or "class_path" not in content:
            raise ValueError(f"{name} names no source: expected the keys class_path and init_args")
        name, init_args = content["class_path"], content.get("init_args") or {}
    module, _, class_name = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"no source {name}: {error}; expected a class path, e.g. my_package.MyImages with my_package on PYTHONPATH"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Source)):
        raise ValueError(f"{name} is no source of data: {missing_methods(kind)}")
    if wrong := [argument for argument in arguments if "=" not in argument]:
        raise ValueError(f"expected name=value for {name}, got {wrong[0]!r}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "source")
    try:
        parser.set_defaults({f"source.{key}": value for key, value in init_args.items()})
        parsed = parser.parse_args([f"--source.{argument}" for argument in arguments])
    except (jsonargparse.ArgumentError, KeyError) as error:
        raise ValueError(f"{name} does not take {dict(init_args)} {list(arguments)}: {error}") from error
    return parser.instantiate(parsed).source
