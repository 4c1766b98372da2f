"""Inert objects in the place of the classes that published checkpoints pickle along with their weights.

Old Lightning files hold callback classes, hyperparameters are argparse namespaces or OmegaConf nodes. None of these
classes is imported: a `StandIn` keeps what the file says of the object, and does nothing.
"""

from typing import Any

import torch

# every class of published files that was seen; anything else is refused by name
NAMES = (
    "argparse.Namespace",
    "collections.defaultdict",
    "numpy._core.multiarray.scalar",  # a best score
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.Path",
    "pathlib.PosixPath",
    "typing.Any",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),  # OmegaConf's types
    *(
        f"omegaconf.{name}"
        for name in (
            "base.ContainerMetadata",
            "base.Metadata",
            "base.SCMode",
            "dictconfig.DictConfig",
            "listconfig.ListConfig",
            "nodes.AnyNode",
            "nodes.BooleanNode",
            "nodes.FloatNode",
            "nodes.IntegerNode",
            "nodes.StringNode",
        )
    ),
    *(
        f"{package}.{name}"
        for package in ("pytorch_lightning", "lightning.pytorch")
        for name in (
            "callbacks.early_stopping.EarlyStopping",
            "callbacks.lr_monitor.LearningRateMonitor",
            "callbacks.model_checkpoint.ModelCheckpoint",
            "utilities.parsing.AttributeDict",
        )
    ),
)


class StandIn:
    """Stand-in for an object whose class is not imported: its constructor arguments, items and attributes."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def allowed() -> torch.serialization.safe_globals:
    """A context in which PyTorch's safe reader makes a `StandIn` of each object whose class is one of `NAMES`."""
    return torch.serialization.safe_globals([(type("StandIn", (StandIn,), {}), name) for name in NAMES])
