"""What the training command says about a mistake: a few lines instead of the pages that jsonargparse writes."""

import importlib
import inspect
import re

_NOISE = ("Does not validate against any", "Subtypes:", "Errors:", "<class 'NoneType'>", "Given value")
_PROTOCOL = re.compile(r"Import path ([\w.]+) does not implement protocol (\w+)")


def message(error: BaseException) -> str:
    """What an error says, without the stack trace that a loading process puts before it."""
    text = str(error).rpartition(f"\n{type(error).__name__}: ")[2]
    return essential(text) or type(error).__name__


def essential(text: str) -> str:
    """A message without the types that a value could have had and the whole configuration; protocols are explained."""
    lines = [line for line in text.splitlines() if not any(words in line for words in _NOISE)]
    found = _PROTOCOL.search(text)
    return "\n".join(lines + (_unfulfilled(*found.groups()) if found else [])).strip().removeprefix("- ")


def _unfulfilled(path: str, protocol_name: str) -> list[str]:
    """A line for each method of a protocol that a class lacks, or has with another signature."""
    from open_magvit2 import protocols

    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    lines = []
    for method, expected in vars(getattr(protocols, protocol_name, object)).items():
        if method.startswith("_") or not inspect.isfunction(expected):
            continue
        if not callable(getattr(kind, method, None)):
            lines.append(f"{name} has no method {method}{inspect.signature(expected)}")
        elif inspect.signature(getattr(kind, method)) != inspect.signature(expected):
            got = inspect.signature(getattr(kind, method))
            lines.append(f"{name}.{method} is {got}, expected {inspect.signature(expected)}, annotations included")
    return lines
