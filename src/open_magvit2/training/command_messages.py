"""Messages of the training command about a mistake: a few lines instead of the pages that jsonargparse writes."""

import contextlib
import importlib
import inspect
import os
import re
import sysconfig
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from open_magvit2 import protocols

_LIBRARIES = (Path(protocols.__file__).parent, *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
_NOISE = ("Does not validate against any", "Subtypes:", "Errors:", "<class 'NoneType'>", "Given value")


def message(error: BaseException) -> str:
    """The text of an error, without the stack trace that a loading process puts before it."""
    text = str(error).rpartition(f"\n{type(error).__name__}: ")[2]
    return essential(text) or type(error).__name__


def place(error: BaseException) -> str:
    """Where a user's own code raised an error, for the end of its message; empty for errors of libraries and ours."""
    frames = traceback.extract_tb(error.__traceback__)
    file = frames[-1].filename if frames else "<nowhere>"
    if file.startswith("<") or any(Path(file).is_relative_to(folder) for folder in _LIBRARIES):
        return ""
    return f" ({file}, line {frames[-1].lineno}, in {frames[-1].name})"


def essential(text: str) -> str:
    """A message without the types that a value could have had and the whole configuration; protocols are explained."""
    lines = [line for line in text.splitlines() if not any(words in line for words in _NOISE)]
    unfulfilled = re.search(r"Import path ([\w.]+)\.(\w+) does not implement protocol (\w+)", text)
    return "\n".join(lines + (_differences(*unfulfilled.groups()) if unfulfilled else [])).strip().removeprefix("- ")


def missing_base(text: str, words: Sequence[str]) -> str:
    """Which base.yaml lies next to a configuration on the command line but is not on it; empty if none is missing.

    Args:
        text: the error; only a key without its class path, or a class path that is required, can come of that.
        words: of the command line.
    """
    given = _config_files(words)
    for file in given if "is not accepted" in text or "are required" in text else ():
        base = file.with_name("base.yaml")
        if base.is_file() and base not in given:
            return f"\nIf {file} holds differences from {base}, give --config {base} before it"
    return ""


def refuse_repeated_keys(words: Sequence[str]) -> None:
    """Refuse configuration files that say a key twice: YAML takes the last one, and drops the first section in silence.

    Raises:
        ValueError: naming file, key and line.
    """
    for file in filter(os.path.isfile, _config_files(words)):
        with file.open(encoding="utf-8") as content, contextlib.suppress(yaml.YAMLError):  # the parser says where
            yaml.load(content, _UniqueKeys)


class _UniqueKeys(yaml.BaseLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [str(key.value) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                line = node.value[number][0].start_mark.line + 1
                raise ValueError(f"{self.name} has the key {key} a second time in line {line}: join the two")
        return super().construct_mapping(node, deep)


def _config_files(words: Sequence[str]) -> list[Path]:
    """The configuration files that a command line names, in order of the two ways to write it."""
    pairs = [word.split("=", 1) for word in words if word.startswith("--config=")] + list(pairwise(words))
    return [Path(after) for option, after in pairs if option in ("-c", "--config")]


def _differences(module: str, name: str, protocol: str) -> list[str]:
    """A line for each method of a protocol that a class lacks, or has with another signature."""
    kind, lines = getattr(importlib.import_module(module), name), []
    for method, expected in vars(getattr(protocols, protocol, object)).items():
        if method.startswith("_") or not inspect.isfunction(expected):
            continue
        wanted, found = inspect.signature(expected), getattr(kind, method, None)
        if not callable(found):
            lines.append(f"{name} has no method {method}{wanted}")
        elif inspect.signature(found) != wanted:
            lines.append(f"{name}.{method} is {inspect.signature(found)}, expected {wanted}, annotations included")
    return lines
