"""Packages that only some users need: imported where they are used; a missing one is named with its extra."""

import importlib
from types import ModuleType

from open_magvit2.common.errors import UserError


def extra(module: str, name: str) -> ModuleType:
    """A module of an optional package.

    Args:
        module: to import, e.g. "webdataset".
        name: of the extra in pyproject.toml that installs it.

    Raises:
        UserError: if it is not installed: it says how to.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"this needs the package {package}, which is not installed: pip install {package}, or pip install "
            f"'.[{name}]' in the repository"
        ) from error
